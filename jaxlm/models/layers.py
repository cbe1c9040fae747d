"""Arrays → arrays: the parts of a transformer's block; `encoder.py` joins them.

Parameters are float32 whatever the compute dtype; norms and softmax run in float32.
Dropout is active where its rate is above 0: a module that is built to run without it
gets rate 0, so no flag travels through the calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlm.models.activations import ACTIVATIONS
from jaxlm.models.dropout import Dropout
from jaxlm.models.kernels.attention import attention

Dtype = Any
Init = Callable[..., Array]


@dataclass(frozen=True)
class BlockSpec:
    """What the blocks of an encoder have in common; D is that of their input."""

    num_heads: int
    d_ff: int
    norm: Literal["post", "pre"]
    norm_eps: float
    activation: str
    causal: bool
    dropout: float
    kernel_init: Init
    out_init: Init  # of the two products that end in the residual stream
    dtype: Dtype


class Table(nn.Module):
    """One row of width D for each id."""

    rows: int
    width: int
    kernel_init: Init

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        """The whole table, float32."""
        return self.param("table", self.kernel_init, (self.rows, self.width))


def layer_norm(eps: float, dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
    """A norm in float32 over the last axis, its output in `dtype`.

    `eps` has no default (BERT 1e-12, GPT 1e-5, Flax 1e-6), and the variance is taken
    about the mean: the one-pass form loses digits.
    """
    return nn.LayerNorm(eps, dtype, use_fast_variance=False, name=name)


def same_segment(segments_BL: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """True where two positions are in the same segment."""
    return segments_BL[:, :, None] == segments_BL[:, None, :]


def position_ids(segments_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The position of each token in its segment: [1 1 1 2 2 0] → [0 1 2 0 1 0]."""
    at_L = jnp.arange(segments_BL.shape[1])
    starts_BL = segments_BL != jnp.pad(segments_BL, ((0, 0), (1, 0)))[:, :-1]
    start_BL = jax.lax.cummax(jnp.where(starts_BL, at_L[None], 0), axis=1)
    return at_L[None] - start_BL


def position_rows(
    table_LD: Float[Array, "M D"],
    length: Any,  # an int, or a symbol of jax.export
    ids: Int[Array, "#B L"] | None,
) -> Float[Array, "#B L D"]:
    """Rows of a position table at `ids`; None: at 0 … length - 1.

    Raises:
        ValueError: the rows are longer than the table.
    """
    if ids is not None:
        return table_LD[ids]
    if length > len(table_LD):
        raise ValueError(
            f"rows of {length} tokens do not fit model.max_length = {len(table_LD)}"
        )
    return table_LD[None, :length]


class Cache(NamedTuple):
    """Keys and values of one layer for the tokens so far, in T slots.

    Each lies as the product that reads it wants it, heads of all rows in one axis: no
    token moves what came before. (With rows and heads apart, XLA's CPU backend copies
    the whole of both at each token.)
    """

    k: Float[Array, "B*H K T"]
    v: Float[Array, "B*H T K"]
    slot: Int[Array, ""]  # where the next token's go, for all rows

    def append(self, k_BLHK: Array, v_BLHK: Array) -> "Cache":
        """With L more tokens."""
        put = jax.lax.dynamic_update_slice_in_dim
        batch, length, heads, width = k_BLHK.shape
        k = k_BLHK.transpose(0, 2, 3, 1).reshape(batch * heads, width, length)
        v = v_BLHK.transpose(0, 2, 1, 3).reshape(batch * heads, length, width)
        return Cache(
            put(self.k, k, self.slot, axis=2),
            put(self.v, v, self.slot, axis=1),
            self.slot + length,
        )

    def unpacked(self, heads: int) -> tuple[Array, Array]:
        """Keys and values [B, T, H, K]."""
        k, v = (x.reshape(-1, heads, *x.shape[1:]) for x in (self.k, self.v))
        return k.transpose(0, 3, 1, 2), v.transpose(0, 2, 1, 3)

    def of_rows(self, rows: Int[Array, "R"], heads: int) -> "Cache":
        """The cache of rows number `rows` of this one."""
        k, v = (
            x.reshape(-1, heads, *x.shape[1:])[rows].reshape(-1, *x.shape[1:])
            for x in (self.k, self.v)
        )
        return Cache(k, v, self.slot)


class Attention(nn.Module):
    """Multi-head self-attention."""

    spec: BlockSpec

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        lengths: Int[Array, "B"] | None,
        segments: Int[Array, "B T"] | None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], Cache | None]:
        """What each position gathers, and the cache with L more tokens.

        With a cache, the positions see its T slots once the L tokens are in them.
        """
        spec, width = self.spec, x_BLD.shape[-1]
        heads = spec.num_heads, width // spec.num_heads
        q, k, v = (
            nn.DenseGeneral(
                heads, dtype=spec.dtype, kernel_init=spec.kernel_init, name=name
            )(x_BLD)
            for name in ("query", "key", "value")
        )
        offset = 0
        if cache is not None:
            offset, cache = cache.slot, cache.append(k, v)
            k, v = cache.unpacked(spec.num_heads)
        y_BLHK = attention(
            q,
            k,
            v,
            causal=spec.causal,
            segments=segments,
            lengths=lengths,
            offset=offset,
            dropout=Dropout(spec.dropout).draw(),
        )
        out = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            dtype=spec.dtype,
            kernel_init=spec.out_init,
            name="out",
        )
        return out(y_BLHK), cache


class Mlp(nn.Module):
    """Wide and back, each position by itself."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """wo(activation(wi(x)))."""
        spec, width = self.spec, x_BLD.shape[-1]
        wi = nn.Dense(
            spec.d_ff, dtype=spec.dtype, kernel_init=spec.kernel_init, name="wi"
        )
        wo = nn.Dense(width, dtype=spec.dtype, kernel_init=spec.out_init, name="wo")
        return wo(ACTIVATIONS[spec.activation](wi(x_BLD)))
