"""Logits and targets → sums and counts, never means: they add over any cut."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Sums(NamedTuple):
    """Adds across micro-batches, devices and steps; divided once, when written."""

    loss: Float[Array, ""]  # Σ weight · cross-entropy, in nats
    weight: Float[Array, ""]  # Σ weight
    correct: Float[Array, ""]  # Σ weight · (argmax is the target)


def cross_entropy(
    logits: Float[Array, "*n V"],
    targets: Int[Array, "*n"],
    weights: Float[Array, "*n"],
) -> Sums:
    """Weighted cross-entropy of integer targets, in float32."""
    logits = logits.astype(jnp.float32)
    top = logits.max(-1, keepdims=True)
    total = jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0]
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    correct = chosen >= top[..., 0]
    return Sums(
        loss=(weights * (total - chosen)).sum(),
        weight=weights.sum(),
        correct=(weights * jax.lax.stop_gradient(correct)).sum(),
    )
