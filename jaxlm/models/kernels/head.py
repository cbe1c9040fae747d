"""Hidden states and a table of classes → logits, or their loss in chunks."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm import mesh
from jaxlm.losses import CrossEntropy, cross_entropy


@jax.custom_vjp
def tied_logits(
    x: Float[Array, "*n D"], table_RD: Float[Array, "R D"]
) -> Float[Array, "*n R"]:
    """x · tableᵀ in float32, from operands in the dtype of `x`.

    The gradient is written by hand to use the same dtypes: autodiff would multiply
    float32 gradients of the logits, and round those of the table to the dtype of `x`.
    """
    table_RD = table_RD.astype(x.dtype)
    return jnp.einsum("...d,rd->...r", x, table_RD, preferred_element_type=jnp.float32)


def _tied_logits_backward(saved, dlogits):
    x, table_RD = saved
    dlogits, rows = dlogits.astype(x.dtype), tuple(range(x.ndim - 1))
    dx = jnp.matmul(dlogits, table_RD.astype(x.dtype))
    dtable_RD = jnp.tensordot(
        dlogits, x, (rows, rows), preferred_element_type=jnp.float32
    )
    return dx, dtable_RD


tied_logits.defvjp(lambda *given: (tied_logits(*given), given), _tied_logits_backward)


def head_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    table_RD: Float[Array, "R D"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    bias_R: Float[Array, "R"] | None = None,
    *,
    classes: int,
    at_once: int | None = None,
) -> CrossEntropy:
    """`cross_entropy` of the logits x · tableᵀ + bias, without holding all logits.

    Logits are computed for a chunk of positions at a time. If gradients are needed, the
    same pass computes those of `x`, `table` and `bias`: nothing is computed twice, and
    only arrays of the size of `x` and `table` are kept.

    Args:
        targets_BL: below `classes`.
        classes: rows of the table that the softmax ranges over; the rest is padding.
        at_once: most logits in a device's memory; the default is 128 MB in float32 on
            CPU, 1 GB elsewhere.
    """
    batch, length, _ = x_BLD.shape
    at_once = at_once or (1 << 25 if mesh.platform() == "cpu" else 1 << 28)
    rows = -(-batch // mesh.row_parts())
    fits = max(1, at_once // (rows * table_RD.shape[0]))
    chunk = next(n for n in range(min(fits, length), 0, -1) if length % n == 0)
    cut = [  # [B, L, …] as [chunks, B, L / chunks, …]
        jnp.moveaxis(x.reshape(batch, length // chunk, chunk, *x.shape[2:]), 1, 0)
        for x in (x_BLD, targets_BL, weights_BL)
    ]
    return _in_chunks(classes, cut[0], (table_RD, bias_R), *cut[1:])


def _whole(classes, x_BLD, head, targets_BL, weights_BL) -> CrossEntropy:
    """The plain reference, which holds all logits at once."""
    table_RD, bias_R = head
    logits_BLR = tied_logits(x_BLD, table_RD)
    if bias_R is not None:
        logits_BLR += bias_R[None, None]
    real_R = jnp.arange(len(table_RD)) < classes
    logits_BLR = jnp.where(real_R[None, None], logits_BLR, -jnp.inf)
    return cross_entropy(logits_BLR, targets_BL, weights_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(classes, x_NBCD, head, *rest):
    """The sums of `_whole` over N chunks."""

    def step(total, chunk):
        x_BCD, *rest = chunk
        return _add(total, _whole(classes, x_BCD, head, *rest)), None

    return jax.lax.scan(step, _zero(), (x_NBCD, *rest))[0]


def _in_chunks_forward(classes, x_NBCD, head, *rest):
    def loss(x_BCD, head, *rest):
        sums = _whole(classes, x_BCD, head, *rest)
        return sums.loss, sums

    def step(carry, chunk):
        total, dhead = carry
        x_BCD, *rest = chunk
        gradients = jax.grad(loss, (0, 1), has_aux=True)
        (dx_BCD, more), sums = gradients(x_BCD, head, *rest)
        return (_add(total, sums), _add(dhead, more)), dx_BCD

    start = _zero(), jax.tree.map(jnp.zeros_like, head)
    (sums, dhead), dx_NBCD = jax.lax.scan(step, start, (x_NBCD, *rest))
    return sums, (dx_NBCD, dhead)


def _in_chunks_backward(classes, gradients, dsums):
    def scaled(gradient):
        return (gradient * dsums.loss).astype(gradient.dtype)

    return *jax.tree.map(scaled, gradients), None, None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _zero() -> CrossEntropy:
    return CrossEntropy(*[jnp.zeros(())] * 3)


def _add(one, other):
    return jax.tree.map(jnp.add, one, other)
