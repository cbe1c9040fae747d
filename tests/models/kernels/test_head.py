"""The head's kernels equal their references, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from jaxlm.losses import cross_entropy
from jaxlm.models.kernels.head import head_cross_entropy, tied_logits


def example():
    random = np.random.RandomState(2)
    x = random.standard_normal((3, 8, 5)).astype(np.float32)
    head = random.standard_normal((16, 5)).astype(np.float32)
    targets = random.randint(0, 11, (3, 8))
    weights = random.uniform(0, 2, (3, 8)).astype(np.float32)
    return tuple(map(jnp.asarray, (x, head, targets, weights)))


def assert_equal(mine, want):
    for one, other in zip(mine, want, strict=True):
        assert np.abs(one - other).max() < 1e-6 * np.abs(other).max()


def test_tied_logits_are_a_product_with_the_table():
    x, head, *_ = example()
    factor = jnp.asarray(np.random.RandomState(3).standard_normal((3, 8, 16)))

    def loss(logits):
        return (factor * jnp.sin(logits)).sum()

    np.testing.assert_allclose(tied_logits(x, head), x @ head.T, rtol=1e-6, atol=1e-6)
    mine = jax.grad(lambda *a: loss(tied_logits(*a)), (0, 1))(x, head)
    assert_equal(mine, jax.grad(lambda x, h: loss(x @ h.T), (0, 1))(x, head))


def test_tied_logits_of_bfloat16_keep_float32_logits_and_gradients():
    x, head, *_ = example()
    half = x.astype(jnp.bfloat16)

    def loss(x, head):
        return (tied_logits(x, head) ** 2).sum()

    assert tied_logits(half, head).dtype == jnp.float32
    dx, dhead = jax.jit(jax.grad(loss, (0, 1)))(half, head)
    assert (dx.dtype, dhead.dtype) == (jnp.bfloat16, jnp.float32)
    exact = jax.grad(loss, (0, 1))(x, head)
    for one, other in zip((dx.astype(jnp.float32), dhead), exact, strict=True):
        assert np.abs(one - other).max() < 0.02 * np.abs(other).max()


@pytest.mark.parametrize("at_once", [1, 100, 10**9])
@pytest.mark.parametrize("biased", [False, True])
def test_the_loss_in_chunks_equals_all_logits_at_once(at_once, biased):
    x, head, targets, weights = example()
    bias = jnp.linspace(-2, 2, 16) if biased else jnp.zeros(16)

    def plain(x, head, bias):
        logits = x @ head.T + bias[None, None]
        return cross_entropy(logits[..., :11], targets, weights)

    def chunked(x, head, bias):
        given = bias if biased else None
        return head_cross_entropy(
            x, head, targets, weights, given, classes=11, at_once=at_once
        )

    arguments, which = (x, head, bias), (0, 1, 2) if biased else (0, 1)
    for mine, want in zip(chunked(*arguments), plain(*arguments), strict=True):
        np.testing.assert_allclose(mine, want, rtol=1e-6)
    assert_equal(
        jax.grad(lambda *a: 0.3 * chunked(*a).loss, which)(*arguments),
        jax.grad(lambda *a: 0.3 * plain(*a).loss, which)(*arguments),
    )


def test_all_logits_never_exist_at_once():
    x, head, targets, weights = example()

    def loss(x, head):
        sums = head_cross_entropy(x, head, targets, weights, classes=11, at_once=100)
        return sums.loss

    text = jax.jit(jax.grad(loss, (0, 1))).lower(x, head).as_text()
    assert "3x2x16xf32" in text  # two of eight positions
    assert "3x8x16xf32" not in text and "24x16xf32" not in text


@pytest.mark.parametrize(("parts", "chunks"), [(1, 4), (3, 2)])
def test_chunks_are_sized_by_the_rows_of_a_device(parts, chunks):
    axes = (AxisType.Auto,) * 2

    def sums(x, head, targets, weights):
        return head_cross_entropy(x, head, targets, weights, classes=11, at_once=100)

    mesh = AbstractMesh((1, parts), ("data", "fsdp"), axes)
    with jax.sharding.use_abstract_mesh(mesh):
        text = str(jax.make_jaxpr(sums)(*example()))
    assert f"f32[3,{8 // chunks},16]" in text
