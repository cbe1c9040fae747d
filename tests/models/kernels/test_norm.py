"""The norm and its gradient equal Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.kernels.norm import normalise


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_and_its_gradient_equal_those_of_flax(dtype):
    random = np.random.RandomState(5)
    x, factor = random.standard_normal((2, 3, 4, 16)) + 0.3
    x = jnp.asarray(x, dtype)
    scale, bias = jnp.asarray(random.standard_normal((2, 16)), jnp.float32)
    theirs = nn.LayerNorm(1e-5, jnp.dtype(dtype), use_fast_variance=False)

    def mine(x, scale, bias):
        return normalise(x, scale, bias, 1e-5, jnp.dtype(dtype))

    def want(x, scale, bias):
        return theirs.apply({"params": {"scale": scale, "bias": bias}}, x)

    np.testing.assert_array_equal(mine(x, scale, bias), want(x, scale, bias))
    gradients = [
        jax.grad(lambda *a, f=f: (factor * jnp.sin(f(*a))).sum(), (0, 1, 2))
        for f in (mine, want)
    ]
    for one, other in zip(*(g(x, scale, bias) for g in gradients), strict=True):
        assert one.dtype == other.dtype
        one, other = (np.asarray(each, np.float32) for each in (one, other))
        error = 2e-2 if dtype == "bfloat16" else 2e-6
        assert np.abs(one - other).max() < error * np.abs(other).max()
