"""Characters of a word → its vector: convolutions, their maxima, highways (ELMo).

Kim et al. 2016 as in allenai/bilm-tf, bilm/training.py. Characters are those of
`text/characters.py`. Next: the layers of `elmo.py`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxlm.config.model import ElmoConfig
from jaxlm.models.layers import Dtype, Init, Table

CHARACTERS = 261  # rows of the table: the bytes and five marks; id 0, no word, has none


def uniform(bound: float) -> Init:
    """Numbers from -bound to bound."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Highway(nn.Module):
    """carry · relu(transform) + (1 - carry) · x; at first, nearly x."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> tuple[Float[Array, "*n D"], None]:
        """What a scan carries on, and nothing to stack."""
        width = x.shape[-1]
        init = nn.initializers.normal(1 / math.sqrt(width))
        closed = nn.initializers.constant(-2.0)
        # The original's name: its carry gate multiplies what is new, not what is kept.
        carry = nn.Dense(
            width, dtype=self.dtype, kernel_init=init, bias_init=closed, name="carry"
        )
        transform = nn.Dense(
            width, dtype=self.dtype, kernel_init=init, name="transform"
        )
        gate = jax.nn.sigmoid(carry(x))
        return gate * jax.nn.relu(transform(x)) + (1 - gate) * x, None


class Filters(nn.Module):
    """Convolution over `width` characters, and its maximum over the word."""

    width: int
    number: int
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n C E"]) -> Float[Array, "*n O"]:
        """Before the activation, which is monotonic and so may follow the maximum."""
        shape = self.width, x.shape[-1], self.number
        kernel_WEO = self.param("kernel", self.kernel_init, shape)
        bias_O = self.param("bias", nn.initializers.zeros, shape[-1:])

        # A word's outputs at all 50 characters take hundreds of kilobytes: the backward
        # pass computes them again, one filter width after the other.
        @jax.checkpoint
        def pooled(x, kernel_WEO, bias_O):
            windows = x.shape[-2] - self.width + 1
            shifted = [x[..., k : k + windows, :] for k in range(self.width)]
            kernel = kernel_WEO.reshape(-1, self.number).astype(self.dtype)
            y = jnp.concatenate(shifted, axis=-1) @ kernel
            bias = bias_O.astype(self.dtype).reshape((1,) * (x.ndim - 2) + (-1,))
            return y.max(axis=-2) + bias

        return pooled(x, kernel_WEO, bias_O)


class CharCnn(nn.Module):
    """The characters of each word → its vector."""

    config: ElmoConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, characters: Integer[Array, "*n C"]) -> Float[Array, "*n D"]:
        """A vector at padding too, to be ignored."""
        config = self.config
        table = Table(CHARACTERS, config.d_character, uniform(1.0), name="embed")()
        x = jnp.pad(table, ((1, 0), (0, 0)))[characters].astype(self.dtype)
        pooled = []
        for width, number in enumerate(config.filters, start=1):
            if number == 0:
                continue
            init = uniform(0.05)
            if config.activation == "tanh":  # Kim et al. 2016; the original's choice
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
            )
            x, _ = highways(self.dtype, name="highways")(x)
        if x.shape[-1] != config.d_model:
            init = nn.initializers.normal(1 / math.sqrt(x.shape[-1]))
            x = nn.Dense(
                config.d_model, dtype=self.dtype, kernel_init=init, name="projection"
            )(x)
        return x
