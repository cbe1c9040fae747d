"""Sums of a step in → figures out: divided once, where they are read.

    a, b       Mean(total, weight) of two micro-batches, devices or steps
    add(a, b)  the Mean of both, exactly what one larger batch would have given
    figures({"loss": a}) → {"loss": 2.31}

A mean of means is nowhere: whatever is averaged travels as (total, weight) until
`train/log.py` or `evaluate.py` writes it. Every quality figure has a baseline beside
it, from counts of what was to be predicted.
"""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A weighted mean that is not divided yet."""

    total: Float[Array, "..."] | float
    weight: Float[Array, "..."] | float


def add(a: Any, b: Any) -> Any:
    """The sums of two trees of sums."""
    return jax.tree.map(operator.add, a, b)


def divide(value: Any) -> float:
    """The mean as a number; NaN where nothing was weighed."""
    if not isinstance(value, Mean):
        return float(value)
    weight = float(value.weight)
    return float(value.total) / weight if weight else math.nan


def figures(sums: Mapping[str, Any]) -> dict[str, float]:
    """Name → number of every sum."""
    return {name: divide(value) for name, value in sums.items()}


def perplexity(loss: float) -> float:
    """e^loss, and infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def balanced_accuracy(
    correct_Y: Float[Array, "Y"] | np.ndarray, weight_Y: Float[Array, "Y"] | np.ndarray
) -> float:
    """The mean over classes of each class's accuracy; absent classes do not count.

    A constant answer scores 1 / Y however unbalanced the classes are.
    """
    correct, weight = np.asarray(correct_Y, float), np.asarray(weight_Y, float)
    there = weight > 0
    return float(np.mean(correct[there] / weight[there])) if there.any() else math.nan


def majority_accuracy(count_V: Float[Array, "V"] | np.ndarray) -> float:
    """Accuracy of always answering the commonest target."""
    count = np.asarray(count_V, float)
    return float(count.max() / count.sum()) if count.sum() else math.nan


def unigram_loss(
    count_V: Float[Array, "V"] | np.ndarray,
    fitted_V: Float[Array, "V"] | np.ndarray | None = None,
) -> float:
    """Cross-entropy in nats of predicting each target by its frequency alone.

    Args:
        count_V: how often each class was the target.
        fitted_V: counts that the frequencies are taken from, with one added to each;
            by default `count_V` itself, whose loss is then the entropy: the lowest
            that any model blind to context can reach on these targets.
    """
    count = np.asarray(count_V, float)
    if not count.sum():
        return math.nan
    fitted = count if fitted_V is None else np.asarray(fitted_V, float) + 1.0
    seen = count > 0
    logs = np.log(fitted[seen]) - math.log(fitted.sum())
    return float(-(count[seen] * logs).sum() / count.sum())
