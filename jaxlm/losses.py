"""Logits and targets → sums and counts, which add up over micro-batches; no means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class CrossEntropy(NamedTuple):
    """Sums to add across micro-batches, devices and steps, and to divide at the end."""

    loss: Float[Array, ""]  # Σ weight · cross-entropy, in nats
    weight: Float[Array, ""]  # Σ weight
    correct: Float[Array, ""]  # Σ weight · (no logit is above the target's)


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
    """(cross-entropy of each target, 1 if its logit is the largest, else 0)."""
    logits = logits.astype(jnp.float32)
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    chosen = jnp.where(classes == targets[..., None], logits, 0).sum(-1)
    correct = (chosen >= logits.max(-1)).astype(jnp.float32)
    return jax.nn.logsumexp(logits, -1) - chosen, correct
