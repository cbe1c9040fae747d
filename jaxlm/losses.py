"""Logits and targets → sums and counts, which add up over micro-batches; no means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class CrossEntropy(NamedTuple):
    """Sums to add across micro-batches, devices and steps, and to divide at the end."""

    loss: Float[Array, ""]  # Σ weight · cross-entropy, in nats
    weight: Float[Array, ""]  # Σ weight
    correct: Float[Array, ""]  # Σ weight · (no logit is above the target's)


class Sample(NamedTuple):
    """Sampled negatives, as indices into the K rows that a step has gathered."""

    classes: Int[Array, "S"]
    drawn: Bool[Array, "S"]  # False: a slot that no draw has filled
    log_expected: Float[Array, "K"]  # expected count of each class in such a sample


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


def sampled_cross_entropy(
    x_BLD: Float[Array, "B L D"],
    table_KD: Float[Array, "K D"],
    bias_K: Float[Array, "K"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
    sample: Sample,
) -> CrossEntropy:
    """Cross-entropy of each target against sampled negatives.

    As `tf.nn.sampled_softmax_loss` (TensorFlow 1.15): each logit is lowered by the log
    of its class's expected count in the sample, and negatives equal to the target are
    left out. The mean is not a log-perplexity: evaluate with all classes.

    Args:
        table_KD: the gathered rows of the softmax.
        targets_BL: indices into `table_KD`, as in `sample`.
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
