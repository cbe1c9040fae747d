"""Characters of a word → its vector: convolutions, their maxima, highways (ELMo).

Kim et al. 2016 as in allenai/bilm-tf, bilm/training.py. Characters are those of
`text/characters.py`. Next: the layers of `elmo.py`.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxlm.config.model import ElmoConfig
from jaxlm.models.layers import Dtype, Init, Table, affine

CHARACTERS = 261  # rows of the table: the bytes and five marks; id 0, no word, has none


def uniform(bound: float) -> Init:
    """Numbers from -bound to bound."""

    def uniform(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    return uniform


class Affine(nn.Module):
    """x · kernel + bias over the last axis."""

    width: int
    kernel_init: Init
    dtype: Dtype
    bias: float = 0.0  # at first

    @nn.compact
    def __call__(self, x: Float[Array, "*n I"]) -> Float[Array, "*n O"]:
        """Of width `width`."""
        shape = x.shape[-1], self.width
        kernel_IO = self.param("kernel", self.kernel_init, shape)
        start = nn.initializers.constant(self.bias)
        bias_O = self.param("bias", start, shape[1:])
        return affine(x.astype(self.dtype), kernel_IO, bias_O, self.dtype)


class Highway(nn.Module):
    """carry · relu(transform) + (1 - carry) · x; at first, nearly x."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> tuple[Float[Array, "*n D"], None]:
        """What a scan carries on, and nothing to stack."""
        width = x.shape[-1]
        init = nn.initializers.normal(1 / math.sqrt(width))
        # The original's name: its carry gate multiplies what is new, not what is kept.
        carry = Affine(width, init, self.dtype, bias=-2.0, name="carry")
        transform = Affine(width, init, self.dtype, name="transform")
        gate = jax.nn.sigmoid(carry(x))
        return gate * jax.nn.relu(transform(x)) + (1 - gate) * x, None


class Filters(nn.Module):
    """Convolution over `width` characters, its maximum over the places of a word."""

    width: int
    number: int
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n C E"]) -> Float[Array, "*n O"]:
        """Before the activation, which rises and so may follow the maximum."""
        shape = self.width, x.shape[-1], self.number
        kernel_WEO = self.param("kernel", self.kernel_init, shape)
        bias_O = self.param("bias", nn.initializers.zeros, shape[-1:])

        # What a word gives at its 50 places is hundreds of kilobytes: made again in
        # the backward pass, one width after the other.
        @jax.checkpoint
        def pooled(x, kernel_WEO, bias_O):
            places = x.shape[-2] - self.width + 1
            shifted = [x[..., k : k + places, :] for k in range(self.width)]
            windows = jnp.concatenate(shifted, axis=-1)
            kernel = kernel_WEO.reshape(-1, self.number)
            return affine(windows, kernel, bias_O, self.dtype).max(axis=-2)

        return pooled(x, kernel_WEO, bias_O)


class CharCnn(nn.Module):
    """The characters of a word → its vector, by itself."""

    config: ElmoConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, characters: Integer[Array, "*n C"]) -> Float[Array, "*n D"]:
        """Of each word; those of padding are as good as any."""
        config = self.config
        table = Table(CHARACTERS, config.d_character, uniform(1.0), name="embed")()
        x = jnp.pad(table, ((1, 0), (0, 0)))[characters].astype(self.dtype)
        # Kim et al. 2016; the original's choice by the activation.
        pooled = []
        for width, number in enumerate(config.filters, start=1):
            if number == 0:
                continue
            init = uniform(0.05)
            if config.activation == "tanh":
                fan_in = width * config.d_character
                init = nn.initializers.normal(1 / math.sqrt(fan_in))
            name = f"filters_{width}"
            pooled.append(Filters(width, number, init, self.dtype, name=name)(x))
        activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[config.activation]
        x = activation(jnp.concatenate(pooled, axis=-1))
        if config.num_highways:
            highways = nn.scan(
                Highway,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=config.num_highways,
                unroll=config.num_highways,
            )
            x, _ = highways(self.dtype, name="highways")(x)
        if x.shape[-1] != config.d_model:
            init = nn.initializers.normal(1 / math.sqrt(x.shape[-1]))
            x = Affine(config.d_model, init, self.dtype, name="projection")(x)
        return x
