"""Logits and targets → sums and counts, never means: they add over any cut."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class CrossEntropy(NamedTuple):
    """Adds across micro-batches, devices and steps; divided once, when written."""

    loss: Float[Array, ""]  # Σ weight · cross-entropy, in nats
    weight: Float[Array, ""]  # Σ weight
    correct: Float[Array, ""]  # Σ weight · (no logit is above the target's)


def cross_entropy(
    logits: Float[Array, "*n V"],
    targets: Int[Array, "*n"],
    weights: Float[Array, "*n"],
) -> CrossEntropy:
    """Weighted cross-entropy of integer targets, in float32."""
    loss, correct = _cross_entropy(logits, targets)
    return CrossEntropy(
        loss=(weights * loss).sum(),
        weight=weights.sum(),
        correct=(weights * correct).sum(),
    )


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
