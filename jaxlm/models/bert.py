"""Token ids → hidden states, pooled vector, MLM and NSP logits (Devlin et al. 2018).

    module = Bert(config, dtype=jnp.bfloat16)
    params = module.init(key, *module.example())["params"]
    out = module.apply({"params": params}, tokens, token_types, lengths=lengths)

The batch comes from `objectives/`, the loss is in `losses.py`. Ids are validated on the
host: an id outside a table would be clamped silently here.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.config.model import BertConfig
from jaxlm.models.dropout import Dropout
from jaxlm.models.encoder import Encoded, Encoder, Remat
from jaxlm.models.heads import MlmHead, NspHead, Pooler, gather
from jaxlm.models.layers import BlockSpec, Dtype, Init, Table, layer_norm, position_rows


class BertEmbed(nn.Module):
    """Token + position + token type, then norm and dropout."""

    config: BertConfig
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        position_ids: Int[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "V D"]]:
        """The input of the first block, and the token table."""
        config, init = self.config, kernel_init(self.config)
        width = config.d_model
        token_VD = Table(config.vocab_size, width, init, name="token")()
        position_MD = Table(config.max_length, width, init, name="position")()
        type_2D = Table(config.num_token_types, width, init, name="token_type")()
        positions = position_rows(position_MD, tokens_BL.shape[1], position_ids)
        x_BLD = token_VD[tokens_BL] + positions + type_2D[token_types_BL]
        x_BLD = layer_norm(config.norm_eps, self.dtype, "norm")(x_BLD)
        return Dropout(self.dropout, name="drop")(x_BLD), token_VD


def kernel_init(config: BertConfig) -> Init:
    """TensorFlow's truncated normal, cut at two sigma and not rescaled."""
    return nn.initializers.truncated_normal(config.init_std)


def encoder(
    config: BertConfig,
    *,
    dropout: float,
    dtype: Dtype = jnp.float32,
    remat: Remat = "none",
    name: str | None = None,
) -> Encoder:
    """A BERT without heads: (tokens, token_types, position_ids or None) → Encoded."""
    init = kernel_init(config)
    spec = BlockSpec(
        num_heads=config.num_heads,
        d_ff=config.d_ff,
        norm="post",
        norm_eps=config.norm_eps,
        activation=config.activation,
        causal=False,
        dropout=dropout,
        kernel_init=init,
        out_init=init,
        dtype=dtype,
    )
    embed = functools.partial(BertEmbed, config, dropout, dtype)
    return Encoder(embed, config.num_layers, spec, remat, name=name)


class Bert(nn.Module):
    """The encoder with its two pretraining heads."""

    config: BertConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on; no shape depends on its length."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        return tokens, tokens

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        predictions_BP: Int[Array, "B P"] | None = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        segments: Int[Array, "B L"] | None = None,
        position_ids: Int[Array, "B L"] | None = None,
        logits: bool = True,
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows and predict.

        Args:
            tokens_BL: ids below `vocab_size`.
            token_types_BL: 0 in sentence A, 1 in sentence B.
            predictions_BP: positions whose tokens are predicted; None: all.
            lengths: tokens of each row; padding follows them. None: there is none.
            segments: of packed rows, the text that each token belongs to; a token
                attends to its own text only.
            position_ids: of packed rows, the position of each token in its own text.
                The pooled vectors are of all tokens then [B, L, D]: a text's lies at
                its first. None: a row is one text.
            logits: False leaves out the MLM and NSP heads (features only).
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config, init = self.config, kernel_init(self.config)
        dropout = 0.0 if deterministic else config.dropout
        body = encoder(config, dropout=dropout, dtype=self.dtype, remat=self.remat)
        nn.share_scope(self, body)
        inputs = tokens_BL, token_types_BL, position_ids
        out = body(*inputs, lengths=lengths, segments=segments)
        x_BLD, table_VD, heads = out.last, out.table, {}
        assert x_BLD is not None and table_VD is not None
        if config.nsp:
            first = x_BLD[:, 0] if position_ids is None else x_BLD
            pooled = Pooler(init, self.dtype, name="pooler")(first)
            out = out._replace(pooled=pooled)
            if logits:
                heads["nsp"] = NspHead(init, name="nsp")(pooled)
        if logits:
            if predictions_BP is not None:
                x_BLD = gather(x_BLD, predictions_BP)
            mlm = MlmHead(
                config.activation, config.norm_eps, init, self.dtype, name="mlm"
            )
            heads["mlm"] = mlm(x_BLD, table_VD)
        return out._replace(heads=heads)
