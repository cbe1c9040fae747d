"""Hidden states and a table of classes → logits, or their loss in chunks."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm import mesh
from jaxlm.losses import CrossEntropy, each_cross_entropy


class Head(NamedTuple):
    """What the logits x · tableᵀ + bias are made of."""

    x: Float[Array, "B L D"]
    table: Float[Array, "*parts R D"]  # or its copies by `mesh.for_rows`
    bias: Float[Array, "*parts R"] | None = None


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
    table: Float[Array, "*parts R D"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    bias: Float[Array, "*parts R"] | None = None,
    *,
    classes: int,
    at_once: int | None = None,
) -> CrossEntropy:
    """`cross_entropy` of a head's logits, computed in chunks by `head_loss`."""
    aims = targets_BL, weights_BL
    loss, right_BL = head_loss(Head(x_BLD, table, bias), *aims, classes, at_once)
    return CrossEntropy(loss, weights_BL.sum(), (weights_BL * right_BL).sum())


def head_loss(
    head: Head,
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    classes: int,
    at_once: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, "B L"]]:
    """(Σ weight · cross-entropy, 1 where the target has the largest logit, else 0).

    Logits are computed for a chunk of positions at a time. If gradients are needed, the
    same pass computes those of `x`, `table` and `bias`: nothing is computed twice, and
    only arrays of the size of `x` and `table` are kept.

    Args:
        head: with copies by `mesh.for_rows`, each device adds up the gradients of all
            chunks before devices exchange them.
        targets_BL: below `classes`.
        classes: rows of the table that the softmax ranges over; the rest is padding.
        at_once: most logits in a device's memory; the default is 128 MB in float32 on
            CPU, 1 GB elsewhere.
    """
    x_BLD, table, bias = head
    parts, rows = table.shape[:-2], table.shape[-2]
    axes = len(parts), len(parts) + 1  # of the chunks and of their rows
    cut = _cut((x_BLD, targets_BL, weights_BL), rows, at_once, parts)
    in_chunks = functools.partial(_in_chunks, functools.partial(_whole, classes))
    in_chunks = jax.vmap(in_chunks) if parts else in_chunks
    loss, right = in_chunks(cut[0], (table, bias), *cut[1:])
    right_BL = jnp.moveaxis(right, axes, axes[::-1]).reshape(targets_BL.shape)
    return loss.sum(), right_BL


class Classes(NamedTuple):
    """Some classes of a softmax."""

    ids: Int[Array, "*n"]
    table: Float[Array, "*n D"]
    bias: Float[Array, "*n"]  # less the log of the expected count in the sample


def sampled_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    targets: Classes,
    negatives: Classes,
    weights_BL: Float[Array, "B L"],
    *,
    at_once: int | None = None,
) -> CrossEntropy:
    """Cross-entropy of each target against sampled negatives, in chunks as above.

    As `tf.nn.sampled_softmax_loss` (TensorFlow 1.15): each logit is lowered by the log
    of its class's expected count in the sample, and negatives equal to the target are
    left out. The mean is not a log-perplexity: evaluate with all classes.

    Args:
        targets: [B, L] classes.
        negatives: [S] classes; one that has not been drawn has the bias -inf.
    """
    right_BL = (x_BLD.astype(jnp.float32) * targets.table).sum(-1) + targets.bias
    by_position = (x_BLD, right_BL), targets.ids, weights_BL
    cut = _cut(by_position, len(negatives.ids), at_once)
    ids_NS = jnp.broadcast_to(negatives.ids, (len(cut[1]), len(negatives.ids)))
    loss, right = _in_chunks(_sampled, cut[0], negatives[1:], *cut[1:], ids_NS)
    return CrossEntropy(loss, weights_BL.sum(), (cut[2] * right).sum())


def _cut(tree, classes, at_once, parts=()):
    """[B, L, …] → [*parts, N, B / parts, L / N, …], in N chunks of so many logits."""
    batch, length = tree[1].shape
    at_once = at_once or (1 << 25 if mesh.platform() == "cpu" else 1 << 28)
    rows = -(-batch // mesh.row_parts())
    fits = max(1, at_once // (rows * classes))
    chunk = next(n for n in range(min(fits, length), 0, -1) if length % n == 0)
    shape = *parts, batch // math.prod(parts), length // chunk, chunk
    axes = len(parts), len(parts) + 1

    def cut(x):
        return jnp.moveaxis(x.reshape(*shape, *x.shape[2:]), axes, axes[::-1])

    return jax.tree.map(cut, tree)


def _sampled(x_and_right, negatives, ids_BL, weights_BL, ids_S):
    """`sampled_cross_entropy` of a chunk, which holds all its logits at once."""
    (x_BLD, right_BL), (table_SD, bias_S) = x_and_right, negatives
    logits_BLS = tied_logits(x_BLD, table_SD) + bias_S[None, None]
    hit_BLS = ids_BL[..., None] == ids_S[None, None]
    logits_BLS = jnp.where(hit_BLS, -jnp.inf, logits_BLS)
    most_BL = jax.lax.stop_gradient(jnp.maximum(logits_BLS.max(-1), right_BL))
    sum_BL = jnp.exp(logits_BLS - most_BL[..., None]).sum(-1)
    each_BL = jnp.log(sum_BL + jnp.exp(right_BL - most_BL)) + most_BL - right_BL
    correct_BL = (right_BL >= most_BL).astype(jnp.float32)
    return (weights_BL * each_BL).sum(), correct_BL


def _whole(classes, x_BLD, shared, targets_BL, weights_BL):
    """`head_loss` of a chunk, which holds all its logits at once."""
    table_RD, bias_R = shared
    logits_BLR = tied_logits(x_BLD, table_RD)
    if bias_R is not None:
        logits_BLR += bias_R[None, None]
    real_R = jnp.arange(len(table_RD)) < classes
    logits_BLR = jnp.where(real_R[None, None], logits_BLR, -jnp.inf)
    each_BL, right_BL = each_cross_entropy(logits_BLR, targets_BL)
    return (weights_BL * each_BL).sum(), right_BL


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(whole, x_NBCD, shared, *rest):
    """(sum of the losses of `whole` over N chunks, its other results, stacked)."""

    def step(total, chunk):
        x_BCD, *rest = chunk
        loss, right_BC = whole(x_BCD, shared, *rest)
        return total + loss, right_BC

    return jax.lax.scan(step, jnp.zeros(()), (x_NBCD, *rest))


def _in_chunks_forward(whole, x_NBCD, shared, *rest):
    gradients = jax.value_and_grad(whole, (0, 1), has_aux=True)

    def step(carry, chunk):
        x_BCD, *rest = chunk
        (loss, right_BC), (dx_BCD, dshared) = gradients(x_BCD, shared, *rest)
        return jax.tree.map(jnp.add, carry, (loss, dshared)), (right_BC, dx_BCD)

    start = jnp.zeros(()), jax.tree.map(jnp.zeros_like, shared)
    carry, (right_NBC, dx_NBCD) = jax.lax.scan(step, start, (x_NBCD, *rest))
    loss, dshared = carry
    return (loss, right_NBC), (dx_NBCD, dshared, *[None] * len(rest))


def _in_chunks_backward(whole, gradients, dout):
    def scaled(gradient):
        return (gradient * dout[0]).astype(gradient.dtype)

    return jax.tree.map(scaled, gradients)


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)
