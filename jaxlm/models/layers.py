"""Arrays → arrays: the parts that every transformer is made of; `stack.py` joins them.

Parameters are float32 whatever the compute dtype; norms and softmax run in float32.
Dropout is active where its rate is above 0: a module that is built to run without it
gets rate 0, so no flag travels through the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Dtype = Any
Init = Callable[..., Array]

ACTIVATIONS = {
    # Google's first release computes GELU by erf, its code since 2019-02 by tanh.
    "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}

# Finite, so that a row which may attend to nothing (padding in a packed row) becomes
# uniform and not NaN.
NEG_INF = float(jnp.finfo(jnp.float32).min)


def keep_mask(
    key: Key[Array, ""], shape: tuple[int, ...], rate: float
) -> Bool[Array, "..."]:
    """True with probability `kept(rate)`, independently for each element of `shape`.

    Each 32-bit threefry word decides two elements, 16 bits each: an eighth of the time
    of `jax.random.bernoulli` on a CPU. Bits depend on the key and on the position in
    `shape` only, not on how the array is sharded; leading axes stay shardable.
    """
    *rows, width = shape
    words = jax.random.bits(key, (*rows, -(-width // 2)), jnp.uint32)
    lanes = jax.lax.bitcast_convert_type(words, jnp.uint16)
    lanes = lanes.reshape(*rows, -1)[..., :width]
    return lanes < _threshold(rate) if _threshold(rate) < 2**16 else lanes >= 0


def kept(rate: float) -> float:
    """The share that `keep_mask` keeps: 1 - rate to 16 bits."""
    return _threshold(rate) / 2**16


def _threshold(rate: float) -> int:
    return max(1, round((1 - rate) * 2**16))


class Dropout(nn.Module):
    """Zero each element with probability `rate`, scale the others up."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`x` itself at rate 0; no "dropout" key is needed then."""
        if self.rate == 0:
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(keep, x * (1 / kept(self.rate)), 0)


class Dense(nn.Module):
    """x[..., *inputs] → x · kernel[*inputs, *outputs] + bias[*outputs]."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def weights(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The kernel and the bias in the compute dtype, to multiply by hand."""
        kernel = self.param("kernel", self.kernel_init, (*self.inputs, *self.outputs))
        bias = self.param("bias", nn.initializers.zeros, self.outputs)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Contract the trailing axes of `x`."""
        kernel, bias = self.weights()
        y = jnp.tensordot(x, kernel, len(self.inputs))
        return y + trailing(bias, y)


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
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return (y * trailing(scale, y) + trailing(bias, y)).astype(self.dtype)


def trailing(vector: Float[Array, "..."], x: Float[Array, "..."]) -> Array:
    """`vector` with axes of size 1 in front, to meet the last axes of `x`."""
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def attend(
    q_BLHK: Float[Array, "B L H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    mask: Bool[Array, "B #L T"],
    drop: Callable[[Array], Array] = lambda probability: probability,
) -> Float[Array, "B L H K"]:
    """Softmax attention; causal, padded and packed attention differ in the mask only.

        padding  1 1 0      causal  1 0 0      packed  1 1 0
                 1 1 0              1 1 0              1 1 0
                 1 1 0              1 1 1              0 0 1

    Args:
        q_BLHK: queries.
        k_BTHK: keys.
        v_BTHK: values.
        mask: True where query l may attend to t; L may be 1, the same for all queries.
        drop: applied to the probabilities. BERT drops each element by itself; a mask
            shared by heads or rows, as in Hugging Face's Flax port, is another model.
    """
    scale = 1 / math.sqrt(q_BLHK.shape[-1])
    score_BHLT = jnp.einsum("blhk,bthk->bhlt", q_BLHK * scale, k_BTHK)
    score_BHLT = jnp.where(mask[:, None], score_BHLT.astype(jnp.float32), NEG_INF)
    p_BHLT = drop(jax.nn.softmax(score_BHLT).astype(v_BTHK.dtype))
    return jnp.einsum("bhlt,bthk->blhk", p_BHLT, v_BTHK)


class Attention(nn.Module):
    """Multi-head self-attention."""

    num_heads: int
    dropout: float
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask: Bool[Array, "B #L L"]
    ) -> Float[Array, "B L D"]:
        """What each position gathers from those that `mask` lets it attend to."""
        width = x_BLD.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        q, k, v = (
            Dense((width,), heads, self.kernel_init, self.dtype, name=name)(x_BLD)
            for name in ("query", "key", "value")
        )
        y_BLHK = attend(q, k, v, mask, Dropout(self.dropout))
        return Dense(heads, (width,), self.kernel_init, self.dtype, name="out")(y_BLHK)


class Mlp(nn.Module):
    """Wide and back, each position by itself."""

    d_ff: int
    activation: str
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """wo(activation(wi(x)))."""
        width = x_BLD.shape[-1]
        h_BLF = Dense((width,), (self.d_ff,), self.kernel_init, self.dtype, name="wi")(
            x_BLD
        )
        h_BLF = ACTIVATIONS[self.activation](h_BLF)
        return Dense((self.d_ff,), (width,), self.kernel_init, self.dtype, name="wo")(
            h_BLF
        )
