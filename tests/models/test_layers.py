"""Dropout bits, attention masks and hand-written gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.activations import ACTIVATIONS
from jaxlm.models.layers import LayerNorm, affine, attend

KEY = jax.random.key(3)


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
    params = norm.init(KEY, x)
    y = np.asarray(norm.apply(params, x))
    want = (np.arange(4) - 1.5) / np.arange(4).std()
    np.testing.assert_allclose(y[0], want, rtol=1e-5)


@pytest.mark.parametrize("inputs, outputs", [(6, 4), (4, 6)])
@pytest.mark.parametrize("rows", [(5,), (2, 3)])
def test_affine_gradients_equal_autodiff(rows, inputs, outputs):
    keys = jax.random.split(KEY, 4)
    x = jax.random.normal(keys[0], (*rows, inputs))
    kernel = jax.random.normal(keys[1], (inputs, outputs))
    bias = jax.random.normal(keys[2], (outputs,))
    dy = jax.random.normal(keys[3], (*rows, outputs))

    def plain(x, kernel, bias):
        return jnp.einsum("...i,io->...o", x, kernel) + jnp.broadcast_to(bias, dy.shape)

    y, pull = jax.vjp(lambda *xs: affine(*xs, jnp.float32), x, kernel, bias)
    want_y, want_pull = jax.vjp(plain, x, kernel, bias)
    np.testing.assert_allclose(y, want_y, atol=1e-5)
    for got, want in zip(pull(dy), want_pull(dy), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_affine_gives_float32_weights_a_float32_gradient():
    x = jnp.ones((3, 4), jnp.bfloat16)
    grads = jax.grad(
        lambda k, b: affine(x, k, b, jnp.bfloat16).astype(jnp.float32).sum(), (0, 1)
    )(jnp.ones((4, 5)), jnp.ones(5))
    assert [g.dtype for g in grads] == [jnp.float32] * 2


def test_attention_is_a_weighted_mean_of_what_the_mask_allows():
    keys = jax.random.split(KEY, 3)
    q, k, v = (jax.random.normal(key, (2, 5, 2, 4)) for key in keys)
    causal = jnp.tril(jnp.ones((1, 5, 5), bool))
    mask = jnp.broadcast_to(causal, (2, 5, 5))
    got = attend(q, k, v, mask)
    score = np.einsum("blhk,bthk->bhlt", q, k) / 2
    p = np.exp(score) * np.asarray(mask)[:, None]
    want = np.einsum("bhlt,bthk->blhk", p / p.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_query_that_may_attend_to_nothing_gives_no_nan():
    q = k = v = jnp.ones((1, 3, 1, 2))
    mask = jnp.zeros((1, 3, 3), bool)
    value, grads = jax.value_and_grad(lambda *x: attend(*x, mask).sum(), (0, 1, 2))(
        q, k, v
    )
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in grads)
