"""Rows of tables: their gradients without a scatter that adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import mesh
from jaxlm.models.kernels.rows import ordered_rows
from jaxlm.models.layers import gather, lookup

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("parts", [(), (2,)])
def test_gradients_of_rows_on_a_gpu_are_those_of_autodiff(parts, monkeypatch):
    """Also of rows that no token reads, or nearly all."""
    table = jnp.asarray(DRAW.normal(size=(*parts, 7, 3)), jnp.float32)
    ids = jnp.asarray(DRAW.choice([0, 2, 2, 2, 2, 6], (4, 50)), jnp.int32)
    weights = jnp.asarray(DRAW.normal(size=(4, 50, 3)), jnp.float32)

    def run(platform):
        monkeypatch.setattr(mesh, "platform", lambda: platform)
        total = lambda table: (lookup(table, ids) * weights).sum()  # noqa: E731
        traced = jax.jit(jax.grad(total)).trace(table)
        return jax.grad(total)(table), traced.lower().as_text()

    (plain, scattered), (ordered, text) = run("cpu"), run("gpu")
    np.testing.assert_allclose(ordered, plain, rtol=1e-5, atol=1e-6)
    assert "unique_indices = true" not in scattered
    assert text.count("unique_indices = true") == text.count('"stablehlo.scatter"') == 1


def test_the_gradient_of_gathered_positions_on_a_gpu_has_no_scatter(monkeypatch):
    x = jnp.asarray(DRAW.normal(size=(2, 6, 3)), jnp.float32)
    at = jnp.asarray([[1, 4, 0, 0], [5, 2, 3, 0]])
    square = lambda x: (gather(x, at) ** 2).sum()  # noqa: E731
    plain = gather(x, at), jax.grad(square)(x)
    monkeypatch.setattr(mesh, "platform", lambda: "gpu")
    for a, b in zip(plain, (gather(x, at), jax.grad(square)(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert "scatter" not in jax.jit(jax.grad(square)).lower(x).as_text()


def test_ordered_rows_are_rows():
    table = jnp.arange(12.0).reshape(4, 3)
    ids = jnp.array([[3, 0], [1, 1]])
    np.testing.assert_array_equal(ordered_rows(table, ids, 4), table[ids])
