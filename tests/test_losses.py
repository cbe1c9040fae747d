"""Cross-entropy against a plain float64 computation, and as a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.losses import cross_entropy
from jaxlm.models.kernels.head import Classes, sampled_cross_entropy


def example(seed=0, shape=(3, 5), classes=11, scale=4.0):
    random = np.random.RandomState(seed)
    logits = random.standard_normal((*shape, classes)).astype(np.float32) * scale
    targets = random.randint(0, classes, shape)
    weights = random.uniform(0, 2, shape).astype(np.float32)
    weights[0, 0] = 0
    return jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weights)


def softmax64(logits):
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_sums_equal_float64():
    logits, targets, weights = example()
    loss, weight, correct = cross_entropy(logits, targets, weights)
    p = np.take_along_axis(softmax64(logits), np.asarray(targets)[..., None], -1)
    right = np.asarray(logits).argmax(-1) == np.asarray(targets)
    np.testing.assert_allclose(loss, -(np.log(p[..., 0]) * weights).sum(), rtol=1e-6)
    np.testing.assert_allclose(weight, weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(correct, (right * np.asarray(weights)).sum(), rtol=1e-6)


def test_gradient_is_softmax_minus_onehot():
    logits, targets, weights = example()
    grad = jax.grad(lambda x: 3 * cross_entropy(x, targets, weights).loss)(logits)
    onehot = np.eye(logits.shape[-1])[np.asarray(targets)]
    want = 3 * (softmax64(logits) - onehot) * np.asarray(weights)[..., None]
    np.testing.assert_allclose(grad, want, atol=1e-6)


def test_gradient_of_the_weights_is_the_loss_of_each_element():
    logits, targets, weights = example()
    grad = jax.grad(lambda w: cross_entropy(logits, targets, w).loss)(weights)
    each = [
        cross_entropy(logits[i, j], targets[i, j], jnp.ones(())).loss
        for i, j in np.ndindex(*weights.shape)
    ]
    np.testing.assert_allclose(grad.ravel(), each, rtol=1e-6)


def test_sums_of_parts_add_up_to_the_whole():
    logits, targets, weights = example(shape=(4, 6))
    whole = cross_entropy(logits, targets, weights)
    parts = [cross_entropy(logits[i], targets[i], weights[i]) for i in range(4)]
    np.testing.assert_allclose(
        whole, jax.tree.map(lambda *x: sum(x), *parts), rtol=1e-6
    )


def test_no_weight_is_no_loss_and_no_gradient():
    logits, targets, weights = example()
    function = jax.value_and_grad(
        lambda x: cross_entropy(x, targets, jnp.zeros_like(weights)).loss
    )
    loss, grad = function(logits)
    assert loss == 0
    assert not grad.any()


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits_stay_finite(shift):
    logits = jnp.array([[shift, shift + 200.0, shift - 200.0]])
    function = jax.value_and_grad(
        lambda x: cross_entropy(x, jnp.array([0]), jnp.ones(1)).loss
    )
    loss, grad = function(logits)
    np.testing.assert_allclose(loss, 200.0)
    np.testing.assert_allclose(grad, [[-1.0, 1.0, 0.0]], atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets, weights = example(classes=3001, scale=1.0)
    rounded = logits.astype(jnp.bfloat16)
    got = cross_entropy(rounded, targets, weights)
    want = cross_entropy(rounded.astype(jnp.float32), targets, weights)
    assert got.loss.dtype == jnp.float32
    np.testing.assert_array_equal(got.loss, want.loss)
    grad = jax.grad(lambda x: cross_entropy(x, targets, weights).loss)(rounded)
    assert grad.dtype == jnp.bfloat16


def head_example():
    random = np.random.RandomState(2)
    x = random.standard_normal((3, 8, 5)).astype(np.float32)
    head = random.standard_normal((16, 5)).astype(np.float32)
    targets = random.randint(0, 11, (3, 8))
    weights = random.uniform(0, 2, (3, 8)).astype(np.float32)
    return tuple(map(jnp.asarray, (x, head, targets, weights)))


def sampled_example():
    x, head, *_ = head_example()
    random = np.random.RandomState(4)
    bias = jnp.asarray(random.standard_normal(16), jnp.float32)
    ids, drawn = np.array([0, 3, 4, 9, 14, 12]), np.arange(6) < 5
    targets = random.choice([0, 3, 7, 8], (3, 8))
    negatives = Classes(
        jnp.asarray(ids), head[ids], jnp.where(drawn, bias[ids], -jnp.inf)
    )
    return x, Classes(jnp.asarray(targets), head[targets], bias[targets]), negatives


def by_position(x, targets, negatives, weights):
    """`_compute_sampled_logits` of TensorFlow's nn_impl.py, a position at a time."""
    total = 0.0
    for b, t in np.ndindex(*weights.shape):
        right = x[b, t] @ targets.table[b, t] + targets.bias[b, t]
        others = negatives.table @ x[b, t] + negatives.bias
        others = jnp.where(negatives.ids == targets.ids[b, t], -jnp.inf, others)
        both = jnp.concatenate([right[None], others])
        total += weights[b, t] * (jnp.log(jnp.exp(both).sum()) - right)
    return total


@pytest.mark.parametrize("at_once", [None, 3 * 2 * 6])
def test_a_sampled_softmax_is_tensorflows(at_once):
    weights = head_example()[3]
    x, targets, negatives = sampled_example()

    def total(loss, x, table, bias, others, other_bias):
        right = targets._replace(table=table, bias=bias)
        wrong = negatives._replace(table=others, bias=other_bias)
        return loss(x, right, wrong, weights)

    def ours(*given):
        return 3 * sampled_cross_entropy(*given, at_once=at_once).loss

    given = x, *targets[1:], *negatives[1:]
    both = [
        jax.value_and_grad(total, (1, 2, 3, 4, 5))(loss, *given)
        for loss in (ours, lambda *given: 3 * by_position(*given))
    ]
    for mine, theirs in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert np.isfinite(both[0][0]) and np.abs(both[0][1][3]).max() > 0


def test_a_sampled_softmax_multiplies_in_the_dtype_of_the_hidden_states():
    """Also in the backward pass, and never holds all logits."""
    weights = head_example()[3]
    x, targets, negatives = sampled_example()

    def loss(x, others):
        wrong = negatives._replace(table=others)
        return sampled_cross_entropy(x, targets, wrong, weights, at_once=36).loss

    half = x.astype(jnp.bfloat16), negatives.table
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*half).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert all(line.count("xbf16>") >= 2 for line in products), products
    assert "3x2x6xf32" in text and "3x8x6xf32" not in text
