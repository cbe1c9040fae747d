"""Arrays → arrays: the parts of every transformer; `encoder.py` joins them.

Parameters are float32 whatever the compute dtype; norms and softmax run in float32.
Dropout (`dropout.py`) is active where its rate is above 0: a module that is built to
run without it gets rate 0, so no flag travels through the calls.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jaxlm.models.activations import ACTIVATIONS
from jaxlm.models.dropout import Dropout

PRODUCT = "product"  # what remat="dots" keeps of each Dense: its output

Dtype = Any
Init = Callable[..., Array]


# Finite, so that a row which may attend to nothing (padding in a packed row) becomes
# uniform and not NaN.
NEG_INF = float(jnp.finfo(jnp.float32).min)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def affine(
    x: Float[Array, "*n I"],
    kernel_IO: Float[Array, "I O"],
    bias_O: Float[Array, "O"],
    out: Dtype,
) -> Float[Array, "*n O"]:
    """x · kernel + bias, multiplied in the dtype of `x`, given in the dtype `out`.

    The gradient is by hand for three reasons: those of float32 weights stay float32
    under a bfloat16 `x`; the kernel's takes the narrower of `x` and the output's
    gradient as the operand that a matrix product must transpose (autodiff always takes
    the second); the bias's is a product with ones. On a CPU the last two save a tenth
    of a step with a large vocabulary.
    """
    y = jnp.matmul(x, kernel_IO.astype(x.dtype), preferred_element_type=out)
    return y + trailing(bias_O.astype(out), y)


def _affine_forward(x, kernel_IO, bias_O, out):
    return affine(x, kernel_IO, bias_O, out), (x, kernel_IO)


def _affine_backward(out, saved, dy):
    x, kernel_IO = saved
    dy = dy.astype(x.dtype)
    dx = jnp.matmul(dy, kernel_IO.astype(x.dtype).T)
    rows = tuple(range(x.ndim - 1))
    product = functools.partial(
        jnp.tensordot, axes=(rows, rows), preferred_element_type=jnp.float32
    )
    # The barriers keep XLA from folding a transpose into the product: this one, which
    # is cheaper behind it, and that of a tied table, which its CPU backend cannot run
    # in bfloat16.
    alone = jax.lax.optimization_barrier
    if x.dtype == jnp.float32:
        wide = kernel_IO.shape[0] > kernel_IO.shape[1]
        dkernel_IO = alone(product(dy, x)).T if wide else product(x, dy)
    else:
        dkernel_IO = alone(product(x, dy))
    return dx, dkernel_IO, product(jnp.ones(dy.shape[:-1], dy.dtype), dy)


affine.defvjp(_affine_forward, _affine_backward)


class Dense(nn.Module):
    """x[..., *inputs] → x · kernel[*inputs, *outputs] + bias[*outputs]."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel_init: Init
    dtype: Dtype
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Contract the trailing axes of `x`."""
        rows = x.shape[: x.ndim - len(self.inputs)]
        kernel = self.param("kernel", self.kernel_init, (*self.inputs, *self.outputs))
        bias = jnp.zeros(self.outputs)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.outputs)
        y = affine(
            x.reshape(*rows, -1).astype(self.dtype),
            kernel.reshape(math.prod(self.inputs), -1),
            bias.reshape(-1),
            self.dtype,
        )
        return checkpoint_name(y, PRODUCT).reshape(*rows, *self.outputs)


class Table(nn.Module):
    """One row of width D for each id."""

    rows: int
    width: int
    kernel_init: Init

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        """The whole table, float32."""
        return self.param("table", self.kernel_init, (self.rows, self.width))


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last axis, in float32, then scale and bias.

    `eps` has no default (BERT 1e-12, GPT 1e-5, Flax would take 1e-6), and the variance
    is taken about the mean: the one-pass form loses digits.
    """

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The normalised `x` in the compute dtype."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return _normalise(x, scale, bias, self.eps).astype(self.dtype)


# By hand, so that a layer keeps x in its own dtype and not float32 intermediates.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x, scale, bias, eps):
    unit, _ = _unit(x, eps)
    return unit * trailing(scale, unit) + trailing(bias, unit)


def _unit(x, eps):
    """`x` with mean 0 and variance 1 in float32, and what it was multiplied by."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * factor, factor


def _normalise_forward(x, scale, bias, eps):
    return _normalise(x, scale, bias, eps), (x, scale)


def _normalise_backward(eps, saved, dy):
    x, scale = saved
    unit, factor = _unit(x, eps)
    d = dy * trailing(scale, dy)
    along = (d * unit).mean(-1, keepdims=True)
    dx = factor * (d - d.mean(-1, keepdims=True) - unit * along)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (dy * unit).sum(rows), dy.sum(rows)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def trailing(vector: Float[Array, "..."], x: Float[Array, "..."]) -> Array:
    """`vector` with axes of size 1 in front, to meet the last axes of `x`."""
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def attend(
    q_BLHK: Float[Array, "B L H K"],
    k: Float[Array, "B _ _ _"],
    v: Float[Array, "B _ _ _"],
    mask: Bool[Array, "#B #L T"],
    drop: Callable[[Array], Array] = lambda probability: probability,
    axes: tuple[str, str] = ("bthk", "bthk"),
) -> Float[Array, "B L H K"]:
    """Softmax attention; causal, padded and packed attention differ in the mask only.

        padding  1 1 0      causal  1 0 0      packed  1 1 0
                 1 1 0              1 1 0              1 1 0
                 1 1 0              1 1 1              0 0 1

    Args:
        q_BLHK: queries.
        k: keys.
        v: values.
        mask: True where query l may attend to t; L may be 1, the same for all queries.
        drop: applied to the probabilities. BERT drops each element by itself; a mask
            shared by heads or rows, as in Hugging Face's Flax port, is another model.
        axes: in which order those of keys and values lie.
    """
    scale = 1 / math.sqrt(q_BLHK.shape[-1])
    score_BHLT = jnp.einsum(f"blhk,{axes[0]}->bhlt", q_BLHK * scale, k)
    p_BHLT = drop(_masked_softmax(score_BHLT, mask[:, None]))
    return jnp.einsum(f"bhlt,{axes[1]}->blhk", p_BHLT, v)


# By hand, so that a layer keeps the probabilities once, in the dtype of the scores.
@jax.custom_vjp
def _masked_softmax(score_BHLT, mask):
    exact_BHLT = jnp.where(mask, score_BHLT.astype(jnp.float32), NEG_INF)
    return jax.nn.softmax(exact_BHLT).astype(score_BHLT.dtype)


def _masked_softmax_forward(score_BHLT, mask):
    p_BHLT = _masked_softmax(score_BHLT, mask)
    return p_BHLT, p_BHLT


def _masked_softmax_backward(p_BHLT, dp_BHLT):
    # A masked score has p = 0 and so no gradient.
    p, dp = p_BHLT.astype(jnp.float32), dp_BHLT.astype(jnp.float32)
    dscore = p * (dp - (p * dp).sum(-1, keepdims=True))
    return dscore.astype(p_BHLT.dtype), None


_masked_softmax.defvjp(_masked_softmax_forward, _masked_softmax_backward)


def causal_mask(
    length: int, segments_BL: Int[Array, "B L"] | None = None
) -> Bool[Array, "#B L L"]:
    """True where position l sees t: t ≤ l and, where given, in the same segment."""
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    if segments_BL is None:
        return mask
    return mask & same_segment(segments_BL)


def same_segment(segments_BL: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """True where two positions are in the same segment."""
    return segments_BL[:, :, None] == segments_BL[:, None, :]


def position_ids(segments_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The place of each token in its segment; segments lie one behind the other.

    [1 1 1 2 2 0] → [0 1 2 0 1 0]
    """
    at_L = jnp.arange(segments_BL.shape[1])
    begins_BL = segments_BL != jnp.pad(segments_BL, ((0, 0), (1, 0)))[:, :-1]
    begin_BL = jax.lax.cummax(jnp.where(begins_BL, at_L[None], 0), axis=1)
    return at_L[None] - begin_BL


class Cache(NamedTuple):
    """Keys and values of one layer for the tokens so far, in T slots.

    Each lies as the product that reads it wants it, heads of all rows in one axis: no
    token moves what came before. (With rows and heads apart, XLA's CPU backend copies
    the whole of both at each token.)
    """

    k: Float[Array, "B*H K T"]
    v: Float[Array, "B*H T K"]
    slot: Int[Array, ""]  # where the next token's go, for all rows

    def append(self, k_BLHK: Array, v_BLHK: Array) -> Cache:
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

    def apart(self, heads: int) -> tuple[Array, Array]:
        """Keys [B, H, K, T] and values [B, H, T, K]."""
        k, v = (x.reshape(-1, heads, *x.shape[1:]) for x in (self.k, self.v))
        return k, v

    def of_rows(self, rows: Int[Array, "R"], heads: int) -> Cache:
        """The cache of rows number `rows` of this one."""
        k, v = (x[rows] for x in self.apart(heads))
        k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
        return Cache(k, v, self.slot)


class Attention(nn.Module):
    """Multi-head self-attention."""

    num_heads: int
    dropout: float
    kernel_init: Init
    out_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "#B #L T"],
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], Cache | None]:
        """What each position gathers from those that `mask` lets it attend to.

        With a cache these are its T slots, once the L tokens are in it; it comes back.
        """
        width = x_BLD.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        q, k, v = (
            Dense((width,), heads, self.kernel_init, self.dtype, name=name)(x_BLD)
            for name in ("query", "key", "value")
        )
        drop = Dropout(self.dropout)
        if cache is None:
            y_BLHK = attend(q, k, v, mask, drop)
        else:
            cache = cache.append(k, v)
            k, v = cache.apart(self.num_heads)
            y_BLHK = attend(q, k, v, mask, drop, axes=("bhkt", "bhtk"))
        out = Dense(heads, (width,), self.out_init, self.dtype, name="out")
        return out(y_BLHK), cache


class Mlp(nn.Module):
    """Wide and back, each position by itself."""

    d_ff: int
    activation: str
    kernel_init: Init
    out_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """wo(activation(wi(x)))."""
        width = x_BLD.shape[-1]
        h_BLF = Dense((width,), (self.d_ff,), self.kernel_init, self.dtype, name="wi")(
            x_BLD
        )
        h_BLF = ACTIVATIONS[self.activation](h_BLF)
        return Dense((self.d_ff,), (width,), self.out_init, self.dtype, name="wo")(
            h_BLF
        )
