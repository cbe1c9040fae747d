"""Cross-entropy against a plain float64 computation, and as a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.losses import (
    Sample,
    cross_entropy,
    sampled_cross_entropy,
)


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


def test_a_sampled_softmax_is_tensorflows():
    """`_compute_sampled_logits` of TensorFlow's nn_impl.py, a position at a time."""
    x, head, _, weights = head_example()
    random = np.random.RandomState(4)
    bias = jnp.asarray(random.standard_normal(16), jnp.float32)
    log_expected = jnp.asarray(random.standard_normal(16), jnp.float32)
    classes, drawn = np.array([0, 3, 4, 9, 12]), np.array([1, 1, 1, 1, 0], bool)
    targets = random.choice([0, 3, 7, 8], (3, 8))
    got = sampled_cross_entropy(
        x,
        head,
        bias,
        jnp.asarray(targets),
        weights,
        Sample(jnp.asarray(classes), jnp.asarray(drawn), log_expected),
    )
    total = 0.0
    for vector, target, weight in zip(
        np.asarray(x, float).reshape(24, 5),
        targets.ravel(),
        np.ravel(weights),
        strict=True,
    ):

        def logit(k, vector=vector):
            return vector @ np.asarray(head[k], float) + bias[k] - log_expected[k]

        others = [logit(k) for k in classes[drawn] if k != target]
        both = np.array([logit(target), *others])
        total += weight * (np.log(np.exp(both).sum()) - both[0])
    assert float(got.loss) == pytest.approx(total, rel=1e-5)
    assert float(got.weight) == pytest.approx(float(weights.sum()))
