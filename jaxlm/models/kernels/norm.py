"""Layer normalisation over the last axis, with a gradient of few passes over memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm import mesh


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: Float[Array, "*n D"],
    scale_D: Float[Array, "D"],
    bias_D: Float[Array, "D"],
    eps: float,
    dtype: Any,
) -> Float[Array, "*n D"]:
    """(x - mean) / √(variance + eps) · scale + bias in float32, cast to `dtype`.

    The variance is that of the centred values: the one-pass form is less precise. The
    gradient is written by hand because autodiff's goes through the variance, which
    costs several float32 arrays of the size of `x`; this one keeps x and two numbers
    of each row.
    """
    return _forward(x, scale_D, bias_D, eps, dtype)[0]


def _forward(x, scale_D, bias_D, eps, dtype):
    given, x, scale, bias = x, *map(_float32, (x, scale_D, bias_D), (x.ndim,) * 3)
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    root = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
    y = centred * (root * scale) + bias
    return y.astype(dtype), (given, scale_D, mean, root)


def _backward(eps, dtype, saved, dy):
    given, scale_D, mean, root = saved
    if mesh.platform() == "gpu":
        # XLA would compute both again, from all of x in float32.
        mean, root = jax.lax.optimization_barrier((mean, root))
    x, dy, scale = map(_float32, (given, dy, scale_D), (dy.ndim,) * 3)
    unit, rows = (x - mean) * root, tuple(range(dy.ndim - 1))
    dunit = dy * scale
    along = (dunit * unit).mean(-1, keepdims=True)
    dx = root * (dunit - dunit.mean(-1, keepdims=True) - unit * along)
    return dx.astype(given.dtype), (dy * unit).sum(rows), dy.sum(rows)


def _float32(x, rank):
    return jnp.expand_dims(x.astype(jnp.float32), tuple(range(rank - x.ndim)))


normalise.defvjp(_forward, _backward)
