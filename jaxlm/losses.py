"""Logits and targets → sums and counts, never means: they add over any cut."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class CrossEntropy(NamedTuple):
    """Adds across micro-batches, devices and steps; divided once, when written."""

    loss: Float[Array, ""]  # Σ weight · cross-entropy, in nats
    weight: Float[Array, ""]  # Σ weight
    correct: Float[Array, ""]  # Σ weight · (no logit is above the target's)


class Sample(NamedTuple):
    """Classes that stand for all others; rows of K that a step has at hand."""

    classes: Int[Array, "S"]
    drawn: Bool[Array, "S"]  # False: a slot that no draw has filled
    log_expected: Float[Array, "K"]  # how often each class is in such a sample


def cross_entropy(
    logits: Float[Array, "*n V"],
    targets: Int[Array, "*n"],
    weights: Float[Array, "*n"],
) -> CrossEntropy:
    """Weighted cross-entropy of integer targets, in float32."""
    loss, correct = each_cross_entropy(logits, targets)
    return CrossEntropy(
        loss=(weights * loss).sum(),
        weight=weights.sum(),
        correct=(weights * correct).sum(),
    )


def each_cross_entropy(
    logits: Float[Array, "*n V"], targets: Int[Array, "*n"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """(cross-entropy of each target, 1 where no logit is above the target's)."""
    return _cross_entropy(logits, targets)


# By hand, because autodiff would keep several arrays as large as the logits: here the
# backward pass is one pass over them, softmax(logits) - onehot(targets).
@jax.custom_vjp
def _cross_entropy(logits, targets):
    return _forward(logits, targets)[0]


def _forward(logits, targets):
    logits = logits.astype(jnp.float32)
    top = logits.max(-1)
    total = jnp.log(jnp.exp(logits - top[..., None]).sum(-1)) + top
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    correct = (chosen >= top).astype(jnp.float32)
    return (total - chosen, correct), total


def _save(logits, targets):
    out, total = _forward(logits, targets)
    return out, (logits, targets, total)


def _backward(saved, cotangents):
    logits, targets, total = saved
    grad = cotangents[0][..., None]
    p = jnp.exp(logits.astype(jnp.float32) - total[..., None])
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    right = classes == targets[..., None]
    return (jnp.where(right, p - 1, p) * grad).astype(logits.dtype), None


_cross_entropy.defvjp(_save, _backward)


# Logits of one chunk, in numbers: 128 MB in float32.
_AT_ONCE = 1 << 25


def head_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    head_RD: Float[Array, "R D"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    bias_R: Float[Array, "R"] | None = None,
    *,
    classes: int,
    at_once: int = _AT_ONCE,
) -> CrossEntropy:
    """`cross_entropy` of the logits x · headᵀ + bias, without ever holding all of them.

    They are made for a stretch of each row's positions at a time. The pass that makes
    them forms the gradients of `x` and `head` too, where those are asked for: nothing
    is computed twice, and what is kept is as large as `x` and `head`.

    Args:
        x_BLD: of the last layer.
        head_RD: the table that logits are products with.
        targets_BL: below `classes`.
        weights_BL: of each target.
        bias_R: of each logit; None: 0.
        classes: rows of the head that the softmax ranges over; more only pad it.
        at_once: most logits in memory.
    """
    batch, length, _ = x_BLD.shape
    fits = max(1, at_once // (batch * head_RD.shape[0]))
    stretch = next(n for n in range(min(fits, length), 0, -1) if length % n == 0)
    loss, correct = _head_loss(
        x_BLD, (head_RD, bias_R), targets_BL, weights_BL, classes, length // stretch
    )
    return CrossEntropy(loss, weights_BL.sum(), correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _head_loss(x_BLD, head, targets_BL, weights_BL, classes, chunks):
    sums, _ = _by_chunks(
        x_BLD, head, targets_BL, weights_BL, classes, chunks, gradient=False
    )
    return sums


def _head_forward(x_BLD, head, targets_BL, weights_BL, classes, chunks):
    return _by_chunks(
        x_BLD, head, targets_BL, weights_BL, classes, chunks, gradient=True
    )


def _head_backward(classes, chunks, gradients, cotangents):
    dx_BLD, dhead = gradients
    scale = cotangents[0]
    dhead = jax.tree.map(lambda d: d * scale, dhead)
    return (dx_BLD * scale).astype(dx_BLD.dtype), dhead, None, None


_head_loss.defvjp(_head_forward, _head_backward)


def _by_chunks(x_BLD, head, targets_BL, weights_BL, classes, chunks, *, gradient: bool):
    """((loss, correct), (dx, dhead) of the loss), a stretch of positions at a time."""
    head_RD, bias_R = head
    table_RD = head_RD.astype(x_BLD.dtype)
    padding = jnp.arange(head_RD.shape[0]) >= classes

    def cut(x):
        rows, length, *rest = x.shape
        return jnp.moveaxis(x.reshape(rows, chunks, length // chunks, *rest), 1, 0)

    def one(carry, chunk):
        loss, correct, (dhead_RD, dbias_R) = carry
        x_BCD, targets_BC, weights_BC = chunk
        logits_BCR = jnp.einsum(
            "bcd,rd->bcr", x_BCD, table_RD, preferred_element_type=jnp.float32
        )
        if bias_R is not None:
            logits_BCR += bias_R[None, None]
        logits_BCR = jnp.where(padding[None, None], -jnp.inf, logits_BCR)
        (losses_BC, correct_BC), total_BC = _forward(logits_BCR, targets_BC)
        loss += (weights_BC * losses_BC).sum()
        correct += (weights_BC * correct_BC).sum()
        if not gradient:
            return (loss, correct, (None, None)), None
        saved = logits_BCR, targets_BC, total_BC
        d_BCR = _backward(saved, (weights_BC,))[0].astype(x_BCD.dtype)
        dx_BCD = jnp.einsum("bcr,rd->bcd", d_BCR, table_RD)
        dhead_RD += jnp.einsum(
            "bcr,bcd->rd", d_BCR, x_BCD, preferred_element_type=jnp.float32
        )
        if dbias_R is not None:
            dbias_R += d_BCR.astype(jnp.float32).sum((0, 1))
        return (loss, correct, (dhead_RD, dbias_R)), dx_BCD

    zero = jnp.zeros(())
    dhead = None, None
    if gradient:
        dhead = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), head)
    (loss, correct, dhead), dx_KBCD = jax.lax.scan(
        one, (zero, zero, dhead), jax.tree.map(cut, (x_BLD, targets_BL, weights_BL))
    )
    if dx_KBCD is None:
        return (loss, correct), None
    dx_BLD = jnp.moveaxis(dx_KBCD, 0, 1).reshape(x_BLD.shape)
    return (loss, correct), (dx_BLD, dhead)


def sampled_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    table_KD: Float[Array, "K D"],
    bias_K: Float[Array, "K"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    sample: Sample,
) -> CrossEntropy:
    """Cross-entropy of each target against a sample of other classes.

    As `tf.nn.sampled_softmax_loss` (TensorFlow 1.15): from each logit the logarithm of
    how often its class is expected in the sample is taken away, and a target that is in
    the sample too is left out of it. Its mean is no perplexity: evaluate with all
    classes.

    Args:
        x_BLD: of the last layer.
        table_KD: rows of the softmax that targets and sample lie in.
        bias_K: of the same rows.
        targets_BL: rows of `table_KD`.
        weights_BL: of each target.
        sample: of the same rows.
    """
    x_BLD = x_BLD.astype(jnp.float32)
    right_BL = jnp.einsum("bld,bld->bl", x_BLD, table_KD[targets_BL])
    right_BL += (bias_K - sample.log_expected)[targets_BL]
    others_BLS = jnp.einsum("bld,sd->bls", x_BLD, table_KD[sample.classes])
    others_BLS += (bias_K - sample.log_expected)[sample.classes][None, None]
    hit_BLS = targets_BL[..., None] == sample.classes[None, None]
    others_BLS = jnp.where(hit_BLS | ~sample.drawn[None, None], -jnp.inf, others_BLS)
    logits = jnp.concatenate([right_BL[..., None], others_BLS], axis=-1)
    return cross_entropy(logits, jnp.zeros_like(targets_BL), weights_BL)
