"""What a family is: rows → batch, batch → sums.

Families differ in how their rows lie in a corpus and in a few functions; only an ELMo
carries state from batch to batch, and reads a few rows of a large table at a step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.metrics import Mean
from jaxlm.objectives.figures import Figure
from jaxlm.types import Layout

Sums = dict[str, Mean]


class SampledRows(NamedTuple):
    """The rows of large tables that a step reads; all others have no gradient."""

    tables: tuple[str, ...]  # ends of paths
    rows: jax.Array  # int32 [K], rising; past the tables' end: padding
    drawn: Any  # what else was drawn for this batch


class Objective(NamedTuple):
    """In what families differ: how their rows lie in a corpus, and some functions.

    `transform(rows)` draws a whole global batch. `loss(params, batch, carry, key,
    sampled_rows)` gives the sums of a micro-batch and the carry for the next batch,
    with dropout where there is a key. `weights(batch)` are the denominators of the sums
    that are minimised, taken over the whole global batch before any forward pass: the
    loss is Σ_k scale_k · sum_k / weight_k, however the batch is cut. With
    `sampled_rows(batch, key)` a step trains those rows only, and `loss` gets them in
    the tables' place.
    """

    layout: Layout
    transform: Callable[[Any], Any]
    weights: Callable[[Any], dict[str, jax.Array]]
    loss: Callable[..., tuple[Sums, Any]]
    figures: tuple[Figure, ...]  # with the scale of each loss
    sampled_rows: Callable[[Any, jax.Array], SampledRows] | None = None


def given(languages_B: Any) -> jax.Array | None:
    """What the host says of the rows' languages, on the device."""
    return None if languages_B is None else jnp.asarray(languages_B)


def language_sums(
    languages_B: jax.Array | None, weights_B: jax.Array, names: tuple[str, ...]
) -> Sums:
    """The share of each language in the rows of a batch; nothing where there is one.

    Args:
        languages_B: int32 [B], by number; None: there is one.
        weights_B: float32 [B], 0 for rows that only fill a batch.
        names: of the languages, by number.
    """
    if languages_B is None:
        return {}
    return {
        f"{name}_rows": Mean(jnp.sum(weights_B * (languages_B == i)), weights_B.sum())
        for i, name in enumerate(names)
    }


def stateless(loss: Callable[..., Sums]) -> Callable[..., tuple[Sums, Any]]:
    """The `loss` of an objective from one of (params, batch, key)."""

    def with_carry(params, batch, carry=(), key=None, sampled_rows=None):
        del sampled_rows
        return loss(params, batch, key), carry

    return with_carry
