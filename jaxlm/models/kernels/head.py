"""Hidden states and a table of classes → logits, or their loss in chunks."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.losses import CrossEntropy, cross_entropy

Head = tuple[Float[Array, "R D"], Float[Array, "R"] | None]  # table, bias


@jax.custom_vjp
def tied_logits(
    x: Float[Array, "*n D"], table_RD: Float[Array, "R D"]
) -> Float[Array, "*n R"]:
    """x · tableᵀ in float32, the operands in the dtype of `x`.

    The gradient is by hand to be so too: autodiff would multiply the float32 gradient
    of the logits, and round that of the table to the dtype of `x`.
    """
    table_RD = table_RD.astype(x.dtype)
    return jnp.einsum("...d,rd->...r", x, table_RD, preferred_element_type=jnp.float32)


def _tied_logits_forward(x, table_RD):
    return tied_logits(x, table_RD), (x, table_RD)


def _tied_logits_backward(saved, dlogits):
    x, table_RD = saved
    dlogits, rows = dlogits.astype(x.dtype), tuple(range(x.ndim - 1))
    dx = jnp.matmul(dlogits, table_RD.astype(x.dtype))
    dtable_RD = jnp.tensordot(
        dlogits, x, (rows, rows), preferred_element_type=jnp.float32
    )
    return dx, dtable_RD


tied_logits.defvjp(_tied_logits_forward, _tied_logits_backward)


# Logits of one chunk, in numbers: 128 MB in float32.
_AT_ONCE = 1 << 25


def head_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    table_RD: Float[Array, "R D"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    bias_R: Float[Array, "R"] | None = None,
    *,
    classes: int,
    at_once: int = _AT_ONCE,
) -> CrossEntropy:
    """`cross_entropy` of the logits x · tableᵀ + bias, never holding all of them.

    Logits are made for a chunk of each row's positions at a time. The pass that makes
    them forms the gradients of `x`, `table` and `bias` too, where these are asked for:
    nothing is computed twice, and what is kept is as large as `x` and `table`.

    Args:
        targets_BL: below `classes`.
        classes: rows of the table that the softmax ranges over; more only pad it.
        at_once: most logits in memory.
    """
    batch, length, _ = x_BLD.shape
    fits = max(1, at_once // (batch * table_RD.shape[0]))
    chunk = next(n for n in range(min(fits, length), 0, -1) if length % n == 0)
    head = table_RD, bias_R
    return _in_chunks(x_BLD, head, targets_BL, weights_BL, classes, length // chunk)


def _whole(classes: int, x_BLD, head: Head, targets_BL, weights_BL) -> CrossEntropy:
    """The reference, all logits at once."""
    table_RD, bias_R = head
    logits_BLR = tied_logits(x_BLD, table_RD)
    if bias_R is not None:
        logits_BLR += bias_R[None, None]
    real_R = jnp.arange(len(table_RD)) < classes
    logits_BLR = jnp.where(real_R[None, None], logits_BLR, -jnp.inf)
    return cross_entropy(logits_BLR, targets_BL, weights_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _in_chunks(x_BLD, head, targets_BL, weights_BL, classes, chunks):
    def step(total, chunk):
        x_BCD, *rest = chunk
        return _add(total, _whole(classes, x_BCD, head, *rest)), None

    cut = _cut(chunks, x_BLD, targets_BL, weights_BL)
    return jax.lax.scan(step, CrossEntropy(*[jnp.zeros(())] * 3), cut)[0]


def _in_chunks_forward(x_BLD, head, targets_BL, weights_BL, classes, chunks):
    def loss(x_BCD, head, *rest):
        sums = _whole(classes, x_BCD, head, *rest)
        return sums.loss, sums

    def step(carry, chunk):
        total, dhead = carry
        x_BCD, *rest = chunk
        gradients = jax.grad(loss, (0, 1), has_aux=True)
        (dx_BCD, more), sums = gradients(x_BCD, head, *rest)
        return (_add(total, sums), _add(dhead, more)), dx_BCD

    start = CrossEntropy(*[jnp.zeros(())] * 3), jax.tree.map(jnp.zeros_like, head)
    cut = _cut(chunks, x_BLD, targets_BL, weights_BL)
    (sums, dhead), dx_NBCD = jax.lax.scan(step, start, cut)
    return sums, (jnp.moveaxis(dx_NBCD, 0, 1).reshape(x_BLD.shape), dhead)


def _in_chunks_backward(classes, chunks, gradients, dsums):
    def scaled(gradient):
        return (gradient * dsums.loss).astype(gradient.dtype)

    return *jax.tree.map(scaled, gradients), None, None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _add(one, other):
    return jax.tree.map(jnp.add, one, other)


def _cut(chunks: int, *arrays: Array) -> tuple[Array, ...]:
    """[B, L, …] as [chunks, B, L / chunks, …]."""
    return tuple(
        jnp.moveaxis(x.reshape(len(x), chunks, -1, *x.shape[2:]), 1, 0) for x in arrays
    )
