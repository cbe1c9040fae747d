"""Token ids → hidden states and next-token logits: GPT-1 and GPT-2.

GPT-1 (Radford et al. 2018; openai/finetune-transformer-lm train.py) norms after each
part, GPT-2 (2019; openai/gpt-2 src/model.py) before it and once more at the end; both
tie the logits to the token table and have no bias there.

The token table has rows up to the next multiple of 128, which matrix units and meshes
divide; they are never an id, a logit or a part of the loss.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.config.model import GptConfig
from jaxlm.models.encoder import Cache, Encoded, Remat, Spec, encode
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.layers import Dropout, Dtype, Table, position_rows


def table_rows(config: GptConfig) -> int:
    """Rows of the token table."""
    return -(-config.vocab_size // 128) * 128


def head_rows(config: GptConfig) -> int:
    """Rows of the head that the softmax ranges over: the others only pad it."""
    return config.vocab_size + config.max_length * config.one_matrix


class GptEmbed(nn.Module):
    """Token + position, and the table that the logits are tied to."""

    spec: Spec

    @nn.compact
    def __call__(
        self, tokens_BL: Int[Array, "B L"], position_ids: Int[Array, "#B L"] | None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "R D"]]:
        """The input of the first block, and the head's table."""
        config: Any = self.spec.config
        vocabulary, width = config.vocab_size, config.d_model

        def token(key: Array, shape: tuple[int, int]) -> Array:
            table = self.spec.kernel_init(key, (vocabulary, width))
            return jnp.pad(table, ((0, shape[0] - vocabulary), (0, 0)))

        position = nn.initializers.normal(config.position_std)
        table_RD = Table(table_rows(config), width, token, name="token")()
        position_MD = Table(config.max_length, width, position, name="position")()
        drop = Dropout(self.spec.dropout)
        if config.one_matrix:
            table_RD = drop(jnp.concatenate([table_RD[:vocabulary], position_MD]))
            position_MD = table_RD[vocabulary:]
        positions = position_rows(position_MD, tokens_BL.shape[1], position_ids)
        x_BLD = (table_RD[tokens_BL] + positions).astype(self.spec.dtype)
        return x_BLD if config.one_matrix else drop(x_BLD), table_RD


class Gpt(nn.Module):
    """The decoder with its tied head."""

    config: GptConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on."""
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
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows and predict each next token; no token sees a later one.

        Args:
            position_ids: rows of the position table; None: 0 … L - 1.
            lengths: tokens of each row; None: all.
            segments: a token sees those of its own segment; of the slots of the caches
                where they are given.
            caches: of each layer, what came before. The parameters are `unstacked`
                then (`encoder.py`).
            logits: False leaves out the head, last · tableᵀ.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        shrink = (2 * config.num_layers) ** 0.5 if config.scale_residual else 1.0
        spec = Spec(
            config,
            norm=config.norm,
            causal=True,
            dropout=0.0 if deterministic else config.dropout,
            kernel_init=nn.initializers.normal(config.init_std),
            out_init=nn.initializers.normal(config.init_std / shrink),
            dtype=self.dtype,
            remat=self.remat,
        )
        x_BLD, table_RD = GptEmbed(spec, name="embed")(tokens_BL, position_ids)
        facts: Any = {"lengths": lengths, "segments": segments, "caches": caches}
        out = encode(spec, x_BLD, table_RD, **facts)
        if not logits:
            return out
        assert out.last is not None
        scores = tied_logits(out.last, table_RD[: config.vocab_size])
        return out._replace(heads={"lm": scores})
