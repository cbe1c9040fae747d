"""Token ids → hidden states, pooled vector, MLM and NSP logits (Devlin et al. 2018).

    module = Bert(config, dtype=jnp.bfloat16)
    params = module.init(key, tokens, token_types, mask)["params"]
    out = module.apply({"params": params}, tokens, token_types, mask, positions)

The batch comes from `transforms/`, the loss is in `losses.py`. Ids are validated on the
host: an id outside a table would be clamped silently here.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlm.config.model import BertConfig
from jaxlm.models.dropout import Dropout
from jaxlm.models.encoder import Encoded, Remat, stack, with_embedding
from jaxlm.models.heads import MlmHead, Pooler, gather
from jaxlm.models.layers import Dense, Dtype, LayerNorm, Table


class BertEmbed(nn.Module):
    """Token + position + token type, then norm and dropout."""

    config: BertConfig
    dropout: float
    dtype: Dtype

    def setup(self) -> None:
        """Name the tables."""
        config = self.config
        init = nn.initializers.truncated_normal(config.init_std)
        self.token = Table(config.vocab_size, config.d_model, init)
        self.position = Table(config.max_length, config.d_model, init)
        self.token_type = Table(config.num_token_types, config.d_model, init)
        self.norm = LayerNorm(config.norm_eps, self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        places_BL: Int[Array, "B L"] | None,
    ) -> Float[Array, "B L D"]:
        """The input of the first block."""
        length = tokens_BL.shape[1]
        if length > self.config.max_length:
            raise ValueError(
                f"rows of {length} tokens do not fit model.max_length = "
                f"{self.config.max_length}"
            )
        table = self.position()
        position = table[None, :length] if places_BL is None else table[places_BL]
        x_BLD = self.token()[tokens_BL] + position + self.token_type()[token_types_BL]
        return self.drop(self.norm(x_BLD))


class Bert(nn.Module):
    """The encoder with its two pretraining heads."""

    config: BertConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on; no shape depends on its length."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        return tokens, tokens, jnp.ones((1, 2), bool)

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        token_types_BL: Int[Array, "B L"],
        mask: Bool[Array, "B L"] | Bool[Array, "B L L"],
        positions_BP: Int[Array, "B P"] | None = None,
        *,
        places_BL: Int[Array, "B L"] | None = None,
        logits: bool = True,
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows and predict.

        Args:
            tokens_BL: ids below `vocab_size`.
            token_types_BL: 0 in sentence A, 1 in sentence B.
            mask: True where a token may be attended to: [B, L] for all queries, or
                [B, L, T] by query (packed rows).
            positions_BP: where to predict tokens; None: everywhere.
            places_BL: of packed rows the place of each token in its own text; the
                pooled vectors are of all tokens then [B, L, D], to be read at 0. None:
                a row is one text.
            logits: False leaves out the MLM and NSP heads (features only).
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        init = nn.initializers.truncated_normal(config.init_std)
        dropout = 0.0 if deterministic else config.dropout
        embed = BertEmbed(config, dropout, self.dtype, name="embed")
        x_BLD = embed(tokens_BL, token_types_BL, places_BL)
        layers = stack(
            config.num_layers,
            remat=self.remat,
            name="layers",
            num_heads=config.num_heads,
            d_ff=config.d_ff,
            norm="post",
            norm_eps=config.norm_eps,
            activation=config.activation,
            dropout=dropout,
            kernel_init=init,
            out_init=init,
            dtype=self.dtype,
        )
        mask = mask if mask.ndim == 3 else mask[:, None]
        last_BLD, (layers_NBLD, _) = layers(x_BLD, mask)
        out = Encoded(hidden=with_embedding(x_BLD, layers_NBLD))
        if config.nsp:
            first = last_BLD[:, 0] if places_BL is None else last_BLD
            pooled = Pooler(init, self.dtype, name="pooler")(first)
            out = out._replace(pooled=pooled)
        if not logits:
            return out
        if config.nsp:
            assert out.pooled is not None
            nsp = Dense((config.d_model,), (2,), init, jnp.float32, name="nsp")
            out = out._replace(nsp_logits=nsp(out.pooled.astype(jnp.float32)))
        mlm = MlmHead(
            config.vocab_size,
            config.activation,
            config.norm_eps,
            init,
            self.dtype,
            name="mlm",
        )
        if positions_BP is not None:
            last_BLD = gather(last_BLD, positions_BP)
        return out._replace(logits=mlm(last_BLD, embed.token()))
