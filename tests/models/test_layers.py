"""Activations and norms run in float32; positions are counted in segments."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import mesh
from jaxlm.config.model import GptConfig
from jaxlm.models.gpt import Gpt
from jaxlm.models.layers import ACTIVATIONS, Dense, LayerNorm, position_ids


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
    norm = LayerNorm(1e-12, jnp.float32)
    params = norm.init(jax.random.key(3), x)
    y = np.asarray(norm.apply(params, x))
    want = (np.arange(4) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(y[0], want, rtol=1e-5)


def test_layer_norm_of_bfloat16_is_computed_in_float32():
    x = (1e2 + jnp.linspace(0, 9, 64)[None]).astype(jnp.bfloat16)
    half, full = (LayerNorm(1e-12, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    params = full.init(jax.random.key(3), x)
    got, exact = half.apply(params, x), full.apply(params, x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_the_gradient_of_a_kernel_is_summed_in_float32():
    """257 is no bfloat16: autodiff's gradient is 256."""
    x, init = jnp.ones((257, 4), jnp.bfloat16), nn.initializers.ones
    dense = Dense((3,), jnp.bfloat16, init)
    params = dense.init(jax.random.key(1), x)
    slope = jax.grad(lambda p: dense.apply(p, x).astype(jnp.float32).sum())(params)
    np.testing.assert_array_equal(slope["params"]["kernel"], 257)


def test_positions_are_counted_in_each_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [4, 4, 1, 0, 0, 0]])
    want = [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]]
    assert position_ids(segments).tolist() == want


def test_dense_equals_flax_with_any_number_of_axes():
    x, key = jnp.linspace(-1, 1, 2 * 5 * 3 * 4).reshape(2, 5, 3, 4), jax.random.key(1)
    init = nn.initializers.normal(0.5)
    mine = Dense((2, 6), jnp.float32, init, inputs=2)
    theirs = nn.DenseGeneral((2, 6), axis=(-2, -1), kernel_init=init)
    params = mine.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(key, x))
    got, want = mine.apply(params, x), theirs.apply(params, x)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_layers_are_unrolled_on_a_gpu_and_keep_their_order_in_memory(monkeypatch):
    config = GptConfig(
        num_layers=3, d_model=8, num_heads=2, d_ff=16, vocab_size=64, max_length=8
    )
    module = Gpt(config)
    tokens = jnp.zeros((2, 8), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)
    found = {}
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(mesh, "platform", lambda platform=platform: platform)
        traced = jax.jit(lambda p: module.apply(p, tokens).last).trace(shapes)
        found[platform] = traced.lower().as_text()
    rows = r"optimization_barrier %\S+ : tensor<16x8xf32>"  # of all embeddings
    assert "while" in found["cpu"] and not re.search(rows, found["cpu"])
    assert "while" not in found["gpu"] and re.search(rows, found["gpu"])
