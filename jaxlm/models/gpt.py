"""Token ids → hidden states and next-token logits: GPT-1 and GPT-2.

GPT-1 (Radford et al. 2018; openai/finetune-transformer-lm train.py) norms after each
part, GPT-2 (2019; openai/gpt-2 src/model.py) before it and once more at the end; both
tie the logits to the token table and have no bias there.

    out = Gpt(config).apply({"params": params}, tokens)            a whole row
    out = Gpt(config).apply({"params": params}, tokens, positions, mask, caches)
                                                                   with what came before

The token table has rows up to the next multiple of 128, which matrix units and meshes
divide; they are never an id, a logit or a part of the loss.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlm.config.model import GptConfig
from jaxlm.models.dropout import Dropout
from jaxlm.models.encoder import Block, Encoded, Remat, stack, with_embedding
from jaxlm.models.layers import (
    Cache,
    Dtype,
    Init,
    LayerNorm,
    Table,
    causal_mask,
)


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
        self, tokens_BL: Int[Array, "B L"], positions_BL: Int[Array, "#B L"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "R D"]]:
        """The input of the first block, and the head's table."""
        config, drop = self.config, Dropout(self.dropout)
        vocabulary, width = config.vocab_size, config.d_model
        token = nn.initializers.normal(config.init_std)
        position = nn.initializers.normal(config.position_std)
        rows = table_rows(config)
        padded = _padded(token, vocabulary)
        token_RD = Table(rows, width, padded, name="token")()
        position_LD = Table(config.max_length, width, position, name="position")()
        if config.one_matrix:
            matrix = drop(jnp.concatenate([token_RD[:vocabulary], position_LD]))
            x_BLD = matrix[tokens_BL] + matrix[vocabulary + positions_BL]
            return x_BLD.astype(self.dtype), matrix
        x_BLD = token_RD[tokens_BL] + position_LD[positions_BL]
        return drop(x_BLD.astype(self.dtype)), token_RD


def _padded(init: Init, rows: int) -> Init:
    """The first `rows` by `init`, the others zero."""

    def padded(key: Array, shape: tuple[int, int]) -> Array:
        table = init(key, (rows, shape[1]))
        return jnp.pad(table, ((0, shape[0] - rows), (0, 0)))

    return padded


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
        positions_BL: Int[Array, "#B L"] | None = None,
        mask: Bool[Array, "#B L T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
        *,
        logits: bool = True,
        deterministic: bool = True,
    ) -> Encoded:
        """Encode rows and predict each next token.

        Args:
            tokens_BL: ids below `vocab_size`.
            positions_BL: rows of the position table; None: 0 … L - 1.
            mask: True where token l may attend to t; None: causal.
            caches: of each layer, what came before: `mask` is over their T slots. The
                parameters are `unstacked` then.
            logits: False leaves out the head; `last` and `head` are what it multiplies.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        length = tokens_BL.shape[1]
        if positions_BL is None:
            if length > config.max_length:
                raise ValueError(
                    f"rows of {length} tokens do not fit model.max_length = "
                    f"{config.max_length}"
                )
            positions_BL = jnp.arange(length)[None]
        if mask is None:
            mask = causal_mask(length)
        dropout = 0.0 if deterministic else config.dropout
        embed = GptEmbed(config, dropout, self.dtype, name="embed")
        x_BLD, head_RD = embed(tokens_BL, positions_BL)
        if caches is None:
            layers = stack(
                config.num_layers,
                remat=self.remat,
                name="layers",
                **self._block(dropout),
            )
            last_BLD, (layers_NBLD, _) = layers(x_BLD, mask)
        else:
            last_BLD, layers_NBLD, caches = self._cached(x_BLD, mask, caches)
        if config.norm == "pre":
            norm = LayerNorm(config.norm_eps, self.dtype, name="final_norm")
            last_BLD = norm(last_BLD)
            layers_NBLD = jnp.concatenate([layers_NBLD[:-1], last_BLD[None]])
        out = Encoded(
            hidden=with_embedding(x_BLD, layers_NBLD),
            last=last_BLD,
            head=head_RD,
            caches=caches,
        )
        if not logits:
            return out
        table_VD = head_RD[: config.vocab_size].astype(self.dtype)
        return out._replace(
            logits=jnp.matmul(last_BLD, table_VD.T, preferred_element_type=jnp.float32)
        )

    def _block(self, dropout: float) -> dict[str, Any]:
        config = self.config
        init = nn.initializers.normal(config.init_std)
        out_std = config.init_std
        if config.scale_residual:
            out_std /= (2 * config.num_layers) ** 0.5
        return {
            "num_heads": config.num_heads,
            "d_ff": config.d_ff,
            "norm": config.norm,
            "norm_eps": config.norm_eps,
            "activation": config.activation,
            "dropout": dropout,
            "kernel_init": init,
            "out_init": nn.initializers.normal(out_std),
            "dtype": self.dtype,
        }

    def _cached(self, x_BLD, mask, caches):
        """The blocks one after another: a scan would copy every cache at each token."""
        block = Block(**self._block(0.0), parent=None)
        layers = self.variables["params"]["layers"]
        hidden, grown = [], []
        for i, cache in enumerate(caches):
            params = layers[str(i)]
            x_BLD, (_, cache) = block.apply({"params": params}, x_BLD, mask, cache)
            hidden.append(x_BLD)
            grown.append(cache)
        return x_BLD, jnp.stack(hidden), tuple(grown)


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
