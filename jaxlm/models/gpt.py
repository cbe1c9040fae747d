"""Token ids → hidden states and next-token logits: GPT-1 and GPT-2.

GPT-1 (Radford et al. 2018; openai/finetune-transformer-lm train.py) is post-norm. GPT-2
(2019; openai/gpt-2 src/model.py) is pre-norm, with another norm at the end. Both tie
the logits to the token table, without a bias.

The token table is padded to a multiple of 128 rows, to suit matrix units and meshes.
The padding has no ids and no part in the logits or the loss.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.config.model import GptConfig
from jaxlm.mesh import for_rows
from jaxlm.models.encoder import Cache, Encoded, Looks, Remat, Spec, encode
from jaxlm.models.kernels.fused import Road
from jaxlm.models.kernels.head import Head, tied_logits
from jaxlm.models.layers import (
    Dropout,
    Dtype,
    Table,
    lookup,
    position_rows,
    row_major,
    zero_padded,
)
from jaxlm.tree import padded_rows


def head_rows(config: GptConfig) -> int:
    """Rows of the head's table that the softmax ranges over; the rest is padding."""
    return config.vocab_size + config.max_length * config.one_matrix


class GptEmbed(nn.Module):
    """The sum of token and position embeddings; the logits share the table."""

    spec: Spec

    @nn.compact
    def __call__(
        self, tokens_BL: Int[Array, "B L"], position_ids: Int[Array, "#B L"] | None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "R D"], Float[Array, "*parts R D"]]:
        """(the input of the first block, the table of the head, its copies)."""
        config: Any = self.spec.config
        vocabulary, width = config.vocab_size, config.d_model
        token = zero_padded(self.spec.kernel_init, vocabulary)
        position = nn.initializers.normal(config.position_std)
        table_RD = Table(padded_rows(vocabulary), width, token, name="token")()
        position_MD = Table(config.max_length, width, position, name="position")()
        drop = Dropout(self.spec.dropout)
        if config.one_matrix:
            table_RD = drop(jnp.concatenate([table_RD[:vocabulary], position_MD]))
            position_MD = table_RD[vocabulary:]
        positions = position_rows(position_MD, tokens_BL.shape[1], position_ids)
        copies = for_rows(table_RD, tokens_BL.shape[0])
        x_BLD = row_major(lookup(copies, tokens_BL) + positions).astype(self.spec.dtype)
        return x_BLD if config.one_matrix else drop(x_BLD), table_RD, copies


class Gpt(nn.Module):
    """The decoder with its tied head."""

    config: GptConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"
    road: Road = "auto"

    def example(self) -> tuple[Any, ...]:
        """Inputs to initialise with."""
        return (jnp.zeros((1, 2), jnp.int32),)

    @nn.compact
    def __call__(
        self,
        tokens_BL: Int[Array, "B L"],
        *,
        position_ids: Int[Array, "#B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
        logits: bool = True,
        looks: Looks | None = None,
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows and predict each next token; no token sees a later one.

        Args:
            position_ids: rows of the position table; None: 0 … L - 1.
            lengths: number of tokens in each row, before padding; None: L.
            segments: a token attends only to its own segment. With caches, T is the
                number of their slots, else L.
            caches: keys and values of earlier tokens, a cache for each layer; the
                parameters must then be `unstacked` (`encoder.py`).
            logits: False leaves out the head, last · tableᵀ.
            looks: makes what is kept as `attention` of each layer's probabilities
                [B, H, L, L]; without it, none are computed on their own.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        shrink = (2 * config.num_layers) ** 0.5 if config.scale_residual else 1.0
        spec = Spec(
            config,
            causal=True,
            dropout=0.0 if deterministic else config.dropout,
            kernel_init=nn.initializers.normal(config.init_std),
            out_init=nn.initializers.normal(config.init_std / shrink),
            dtype=self.dtype,
            remat=self.remat,
            road=self.road,
            looks=looks,
        )
        embed = GptEmbed(spec, name="embed")
        x_BLD, table_RD, copies = embed(tokens_BL, position_ids)
        facts: Any = {"lengths": lengths, "segments": segments, "caches": caches}
        out = encode(spec, x_BLD, table_RD, **facts)
        assert out.last is not None
        out = out._replace(head=Head(out.last, copies))
        if not logits:
            return out
        scores = tied_logits(out.last, table_RD[: config.vocab_size])
        return out._replace(heads={"lm": scores})
