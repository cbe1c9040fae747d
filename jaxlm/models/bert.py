"""Token ids → hidden states, pooled vector, MLM and NSP logits (Devlin et al. 2018).

RoFormer (Su et al. 2021) and ModernBERT (Warner et al. 2024) are choices of the config.

    module = Bert(config, dtype=jnp.bfloat16)
    params = module.init(key, *module.example())["params"]
    out = module.apply({"params": params}, tokens, token_types, lengths=lengths)

The batch comes from `objectives/`, the loss is in `losses.py`. Ids are validated on the
host: an id outside a table would be clamped silently here.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.config.model import BertConfig
from jaxlm.mesh import for_rows
from jaxlm.models.encoder import Encoded, Looks, Remat, Spec, encode
from jaxlm.models.kernels.fused import Road
from jaxlm.models.kernels.head import Head, tied_logits
from jaxlm.models.layers import (
    Dense,
    Dropout,
    Dtype,
    LayerNorm,
    Table,
    few_rows,
    gather,
    lookup,
    position_rows,
    row_major,
    zero_padded,
)
from jaxlm.tree import padded_rows


class BertEmbed(nn.Module):
    """The sum of token, position and token-type embeddings, of those that the config
    has, then norm and dropout."""

    spec: Spec

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        position_ids: Int[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "R D"], Float[Array, "*parts R D"]]:
        """(the input of the first block, the token table, its copies)."""
        config: Any = self.spec.config
        width, init = config.d_model, self.spec.kernel_init
        rows, token = (
            padded_rows(config.vocab_size),
            zero_padded(init, config.vocab_size),
        )
        token_RD = Table(rows, width, token, name="token")()
        copies = for_rows(token_RD, tokens_BL.shape[0])
        x_BLD = lookup(copies, tokens_BL)
        if config.positions == "learned":
            position_MD = Table(config.max_length, width, init, name="position")()
            x_BLD += position_rows(position_MD, tokens_BL.shape[1], position_ids)
        if types := config.num_token_types:
            type_2D = Table(types, width, init, name="token_type")()
            x_BLD = x_BLD + few_rows(type_2D, token_types_BL)
        x_BLD = row_major(x_BLD)
        x_BLD = self.spec.norm_layer("norm")(x_BLD)
        return Dropout(self.spec.dropout, name="drop")(x_BLD), token_RD, copies


class MlmTransform(nn.Module):
    """The dense layer, activation and norm before the logits of tokens."""

    config: Any  # a BertConfig
    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."]) -> Any:
        """Vectors as wide as the table of tokens."""
        config, dtype = self.config, self.dtype
        init = nn.initializers.truncated_normal(config.init_std)
        options: Any = {"activation": config.activation, "use_bias": config.biases}
        x = Dense((self.width,), dtype, init, name="dense", **options)(x)
        return LayerNorm(config.norm_eps, dtype, config.biases, name="norm")(x)


class MlmHead(MlmTransform):
    """MLM logits: the transform, x · tableᵀ, and a bias per token."""

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"]) -> Any:
        """(what the table multiplies [B, P, D], the bias [R])."""
        rows = padded_rows(self.config.vocab_size)
        return super().__call__(x), self.param("bias", nn.initializers.zeros, (rows,))


def with_pooler(spec: Spec, out: Encoded, *, packed: bool, nsp: bool) -> Encoded:
    """The output with the pooled vector and, with `nsp`, the NSP logits.

    A compact module calls this, as it calls `with_mlm`. In packed rows, all tokens are
    pooled.
    """
    x_BLD, init = out.last, spec.kernel_init
    assert x_BLD is not None
    pooler = nn.Dense(
        x_BLD.shape[-1], dtype=spec.dtype, kernel_init=init, name="pooler"
    )
    pooled = jnp.tanh(pooler(x_BLD if packed else x_BLD[:, 0]))
    heads = dict(out.heads)
    if nsp:
        head = nn.Dense(2, dtype=jnp.float32, kernel_init=init, name="nsp")
        heads["nsp"] = head(pooled)
    return out._replace(pooled=pooled, heads=heads)


def with_mlm(
    spec: Spec,
    out: Encoded,
    copies: Float[Array, "*parts R D"],
    predictions_BP: Int[Array, "B P"] | None,
) -> Encoded:
    """The output with the MLM logits; `copies` are those of `out.table`."""
    x_BPD, table_RD = out.last, out.table
    assert x_BPD is not None and table_RD is not None
    if predictions_BP is not None:
        x_BPD = gather(x_BPD, predictions_BP)
    head = MlmHead(spec.config, table_RD.shape[-1], spec.dtype, name="mlm")
    x_BPD, bias_R = head(x_BPD)
    logits_BPR = tied_logits(x_BPD, table_RD) + bias_R[None, None]
    logits_BPV = logits_BPR[..., : spec.config.vocab_size]
    factors = Head(x_BPD, copies, for_rows(bias_R, x_BPD.shape[0]))
    return out._replace(head=factors, heads={**out.heads, "mlm": logits_BPV})


class Bert(nn.Module):
    """The encoder with its two pretraining heads."""

    config: BertConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"
    road: Road = "auto"

    def example(self) -> tuple[Any, ...]:
        """Inputs to initialise with; no parameter's shape depends on their length."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        return tokens, tokens

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        predictions_BP: Int[Array, "G P"] | None = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        segments: Int[Array, "B L"] | None = None,
        position_ids: Int[Array, "B L"] | None = None,
        causal_rows: int = 0,
        logits: bool = True,
        looks: Looks | None = None,
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows, predict masked tokens and next sentences.

        Args:
            token_types_BL: 0 in sentence A, 1 in sentence B.
            predictions_BP: positions whose tokens are predicted; None: all. Of several
                rows together, end to end, if it has fewer rows.
            lengths: number of tokens in each row, before padding; None: no padding.
            segments: for packed rows, the text that each token belongs to; a token
                attends only to its own text.
            position_ids: for packed rows, the position of each token in its text. All
                tokens are then pooled, [B, L, D]; the vector of a text is at its first
                token. None: a row is one text.
            causal_rows: number of rows in which a token sees no later one, the first
                rows by `mesh.joined`.
            logits: False leaves out the MLM and NSP heads (features only).
            looks: makes what is kept as `attention` of each layer's probabilities
                [B, H, L, L]; without it, none are computed on their own.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        # TensorFlow's truncated normal, cut at two sigma and not rescaled.
        init = nn.initializers.truncated_normal(config.init_std)
        shrink = (2 * config.num_layers) ** 0.5 if config.norm == "pre" else 1.0
        spec = Spec(
            config,
            causal=False,
            dropout=0.0 if deterministic else config.dropout,
            kernel_init=init,
            out_init=nn.initializers.truncated_normal(config.init_std / shrink),
            dtype=self.dtype,
            remat=self.remat,
            road=self.road,
            causal_rows=causal_rows,
            looks=looks,
        )
        embed = BertEmbed(spec, name="embed")
        x_BLD, table_RD, copies = embed(tokens_BL, token_types_BL, position_ids)
        facts: Any = {"segments": segments, "position_ids": position_ids}
        out = encode(spec, x_BLD, table_RD, lengths=lengths, **facts)
        if config.nsp:
            out = with_pooler(spec, out, packed=position_ids is not None, nsp=logits)
        if not logits:
            return out
        last: Any = out.last
        if causal_rows and predictions_BP is not None:
            in_groups = last.reshape(len(predictions_BP), -1, config.d_model)
            out = out._replace(last=in_groups)
        return with_mlm(spec, out, copies, predictions_BP)._replace(last=last)
