"""Token ids → hidden states and next-token logits: GPT-1 and GPT-2.

GPT-1 (Radford et al. 2018; openai/finetune-transformer-lm train.py) norms after each
part, GPT-2 (2019; openai/gpt-2 src/model.py) before it and once more at the end; both
tie the logits to the token table and have no bias there.

    out = Gpt(config).apply({"params": params}, tokens)          whole rows
    out = Gpt(config).apply(
        {"params": unstacked(params)}, tokens, caches=caches, position_ids=…
    )                                                            after what came before

The token table has rows up to the next multiple of 128, which matrix units and meshes
divide; they are never an id, a logit or a part of the loss.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.config.model import GptConfig
from jaxlm.models.dropout import Dropout
from jaxlm.models.encoder import Encoded, Encoder, Remat
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.layers import BlockSpec, Cache, Dtype, Init, Table, position_rows


def table_rows(config: GptConfig) -> int:
    """Rows of the token table."""
    return -(-config.vocab_size // 128) * 128


def head_rows(config: GptConfig) -> int:
    """Rows of the head that the softmax ranges over: the others only pad it."""
    return config.vocab_size + config.max_length * config.one_matrix


class GptEmbed(nn.Module):
    """Token + position, and the table that the logits are tied to."""

    config: GptConfig
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self, tokens_BL: Int[Array, "B L"], position_ids: Int[Array, "#B L"] | None
    ) -> tuple[Float[Array, "B L D"], Float[Array, "R D"]]:
        """The input of the first block, and the head's table."""
        config, drop = self.config, Dropout(self.dropout)
        vocabulary, width = config.vocab_size, config.d_model
        token = _padded(nn.initializers.normal(config.init_std), vocabulary)
        position = nn.initializers.normal(config.position_std)
        table_RD = Table(table_rows(config), width, token, name="token")()
        position_MD = Table(config.max_length, width, position, name="position")()
        if config.one_matrix:
            table_RD = drop(jnp.concatenate([table_RD[:vocabulary], position_MD]))
            position_MD = table_RD[vocabulary:]
        positions = position_rows(position_MD, tokens_BL.shape[1], position_ids)
        x_BLD = (table_RD[tokens_BL] + positions).astype(self.dtype)
        return x_BLD if config.one_matrix else drop(x_BLD), table_RD


def _padded(init: Init, rows: int) -> Init:
    """The first `rows` by `init`, the others zero."""

    def padded(key: Array, shape: tuple[int, int]) -> Array:
        table = init(key, (rows, shape[1]))
        return jnp.pad(table, ((0, shape[0] - rows), (0, 0)))

    return padded


def encoder(
    config: GptConfig,
    *,
    dropout: float,
    dtype: Dtype = jnp.float32,
    remat: Remat = "none",
    name: str | None = None,
) -> Encoder:
    """A GPT without its head: (tokens, position_ids or None) → Encoded."""
    shrink = (2 * config.num_layers) ** 0.5 if config.scale_residual else 1.0
    spec = BlockSpec(
        num_heads=config.num_heads,
        d_ff=config.d_ff,
        norm=config.norm,
        norm_eps=config.norm_eps,
        activation=config.activation,
        causal=True,
        dropout=dropout,
        kernel_init=nn.initializers.normal(config.init_std),
        out_init=nn.initializers.normal(config.init_std / shrink),
        dtype=dtype,
    )
    embed = functools.partial(GptEmbed, config, dropout, dtype)
    return Encoder(embed, config.num_layers, spec, remat, name=name)


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
            tokens_BL: ids below `vocab_size`.
            position_ids: rows of the position table; None: 0 … L - 1.
            lengths: tokens of each row; None: all.
            segments: a token sees those of its own segment; of the slots of the caches
                where they are given.
            caches: of each layer, what came before. The parameters are `unstacked`
                then.
            logits: False leaves out the head, last · tableᵀ.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        dropout = 0.0 if deterministic else config.dropout
        body = encoder(config, dropout=dropout, dtype=self.dtype, remat=self.remat)
        nn.share_scope(self, body)
        out = body(
            tokens_BL, position_ids, lengths=lengths, segments=segments, caches=caches
        )
        if not logits:
            return out
        assert out.last is not None and out.table is not None
        table_VD = out.table[: config.vocab_size]
        return out._replace(heads={"lm": tied_logits(out.last, table_VD)})


def unstacked(params: Any) -> Any:
    """The parameters with each layer's by themselves, `layers/0/mlp/wi/kernel` ….

    A token at a time reads every weight once; cut out of a stack, it would be copied
    each time.
    """
    stacked = params["layers"]
    count = jax.tree.leaves(stacked)[0].shape[0]
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]
    return {**params, "layers": {str(i): layer for i, layer in enumerate(each)}}


def empty_caches(
    config: GptConfig, batch: int, slots: int, dtype: Dtype = jnp.float32
) -> tuple[Cache, ...]:
    """Room for `slots` tokens of `batch` rows in every layer."""
    heads, width = config.num_heads, config.d_model // config.num_heads
    k = jnp.zeros((batch * heads, width, slots), dtype)
    v = jnp.zeros((batch * heads, slots, width), dtype)
    return (Cache(k, v, jnp.zeros((), jnp.int32)),) * config.num_layers
