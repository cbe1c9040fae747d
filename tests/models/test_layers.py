"""Activations and norms run in float32; positions are counted in segments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.layers import ACTIVATIONS, layer_norm, position_ids


@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "relu"])
def test_activations_and_slopes_equal_those_of_jax(name):
    theirs = {
        "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "relu": jax.nn.relu,
    }[name]
    x = jnp.linspace(-6, 6, 1001)
    np.testing.assert_allclose(ACTIVATIONS[name](x), theirs(x), atol=2e-6)
    mine, want = jax.vmap(jax.grad(ACTIVATIONS[name]))(x), jax.vmap(jax.grad(theirs))(x)
    np.testing.assert_allclose(mine, want, atol=5e-6)


def test_activations_of_bfloat16_are_computed_in_float32():
    x = jnp.linspace(-4, -1, 64).astype(jnp.bfloat16)
    for function in ACTIVATIONS.values():
        got = function(x)
        assert got.dtype == jnp.bfloat16
        exact = function(x.astype(jnp.float32)).astype(jnp.bfloat16)
        np.testing.assert_array_equal(got, exact)


def test_layer_norm_takes_the_variance_about_the_mean():
    # The one-pass variance of these loses every digit.
    x = 1e4 + jnp.array([[0.0, 1.0, 2.0, 3.0]])
    norm = layer_norm(1e-12, jnp.float32)
    params = norm.init(jax.random.key(3), x)
    y = np.asarray(norm.apply(params, x))
    want = (np.arange(4) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(y[0], want, rtol=1e-5)


def test_layer_norm_of_bfloat16_is_computed_in_float32():
    x = (1e2 + jnp.linspace(0, 9, 64)[None]).astype(jnp.bfloat16)
    half, full = (layer_norm(1e-12, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    params = full.init(jax.random.key(3), x)
    got, exact = half.apply(params, x), full.apply(params, x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_positions_are_counted_in_each_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [4, 4, 1, 0, 0, 0]])
    want = [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]]
    assert position_ids(segments).tolist() == want
