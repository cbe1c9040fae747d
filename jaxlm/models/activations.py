"""What an MLP puts between its two products, by the names that configs use.

Each runs in float32 and has its derivative by hand, so that autodiff keeps x alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def _activation(function: Activation, slope: Activation) -> Activation:
    def in_float32(function, x):
        return function(x.astype(jnp.float32)).astype(x.dtype)

    activation = jax.custom_jvp(lambda x: in_float32(function, x))
    activation.defjvps(lambda dx, _, x: dx * in_float32(slope, x))
    return activation


def _normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _normal_density(x):
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _tanh(x):
    return jnp.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))


def _tanh_gelu_slope(x):
    tanh = _tanh(x)
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 + 0.5 * tanh + 0.5 * x * (1 - tanh * tanh) * inner


# Google's first release computes GELU by erf, its code since 2019-02 by tanh: they
# differ by up to 5e-4, and a converted model keeps its maker's.
ACTIVATIONS: dict[str, Activation] = {
    "gelu_erf": _activation(
        lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_density(x)
    ),
    "gelu_tanh": _activation(lambda x: x * (0.5 + 0.5 * _tanh(x)), _tanh_gelu_slope),
    "relu": jax.nn.relu,
}
