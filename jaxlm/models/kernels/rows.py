"""Rows of a table, with a gradient that adds them up in a fixed order.

    ids      5 2 5 0    gradients  a b c d
    sorted   0 2 5 5               d b a c       running sums of a row: d b a a+c
                                                 the last of each is its gradient

On a GPU the scatter that autodiff would take adds in any order, and if it may not, it
sorts all its numbers: here ids alone are sorted.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def ordered_rows(
    table_RD: Float[Array, "R D"], ids: Int[Array, "*n"], rows: int
) -> Float[Array, "*n D"]:
    """`table_RD[ids]`; `rows` is R."""
    return table_RD[ids]


def _forward(table_RD, ids, rows):
    return table_RD[ids], ids


def _backward(rows, ids, dy):
    order_N = jnp.argsort(ids.reshape(-1))
    ids_N, dy_ND = ids.reshape(-1)[order_N], dy.reshape(-1, dy.shape[-1])[order_N]
    new_N = ids_N[1:] != ids_N[:-1]

    def add(left, right):
        begins, x = right
        return left[0] | begins, jnp.where(begins, x, left[1] + x)

    begins_N1 = jnp.append(True, new_N)[:, None]
    _, sums_ND = jax.lax.associative_scan(add, (begins_N1, dy_ND))
    outside_N = rows + jnp.arange(len(ids_N), dtype=ids_N.dtype)
    last_N = jnp.where(jnp.append(new_N, True), ids_N, outside_N)
    zeros_RD = jnp.zeros((rows, dy.shape[-1]), dy.dtype)
    facts = {"mode": "drop", "unique_indices": True}
    return zeros_RD.at[last_N].set(sums_ND, **facts), None


ordered_rows.defvjp(_forward, _backward)
