"""The functions between an MLP's two products, by the names that configs use."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def _in_float32(function: Activation) -> Activation:
    """Computed in float32, given in the dtype of x; autodiff keeps x alone."""

    def activation(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return function(x.astype(jnp.float32)).astype(x.dtype)

    return jax.checkpoint(activation, prevent_cse=False)


# Google's first release computes GELU by erf, its code since 2019-02 by tanh: they
# differ by up to 5e-4, and a converted model keeps its maker's.
ACTIVATIONS: dict[str, Activation] = {
    "gelu_erf": _in_float32(functools.partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": _in_float32(functools.partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
}
