"""What a training objective is: rows → batch, batch → sums.

Families differ in the layout of their rows and in a few functions. Only an ELMo carries
state from batch to batch, and reads only a few rows of a large table in each step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxlm.metrics import Figure, Mean, Sums
from jaxlm.types import Layout

STREAM = "evaluate"  # names the random draws of an evaluation


class SampledRows(NamedTuple):
    """The rows of large tables that a step reads; all others have no gradient."""

    tables: tuple[str, ...]  # ends of paths
    rows: jax.Array  # int32 [K], rising; past the tables' end: padding
    drawn: Any  # what else was drawn for this batch


class Objective(NamedTuple):
    """The layout of a family's rows, and the functions that its training needs.

    `transform(rows)` makes the whole global batch. `loss(params, batch, carry, key,
    sampled_rows)` returns the sums of a micro-batch and the carry for the next batch;
    a key switches dropout on. `weights(batch)` returns the denominators of the losses,
    taken over the whole global batch before any forward pass: the loss is
    Σ_k scale_k · sum_k / weight_k, however the batch is cut into micro-batches. If
    there is `sampled_rows(batch, key)`, a step trains only these rows of the tables,
    and the parameters of `loss` have only these rows.
    """

    layout: Layout
    transform: Callable[[Any], Any]
    weights: Callable[[Any], dict[str, jax.Array]]
    loss: Callable[..., tuple[Sums, Any]]
    figures: tuple[Figure, ...]  # with the scale of each loss
    sampled_rows: Callable[[Any, jax.Array], SampledRows] | None = None


def stateless(loss: Callable[..., Sums]) -> Callable[..., tuple[Sums, Any]]:
    """The `loss` of an `Objective`, made from a loss(params, batch, key)."""

    def with_carry(params, batch, carry=(), key=None, sampled_rows=None):
        del sampled_rows
        return loss(params, batch, key), carry

    return with_carry


def apply(module: nn.Module, params: Any, key: Any, *inputs: Any, **facts: Any) -> Any:
    """The output of a module, with dropout if there is a key."""
    rngs = {} if key is None else {"dropout": key}
    facts |= {"deterministic": key is None, "rngs": rngs}
    return module.apply({"params": params}, *inputs, **facts)


def group_sums(
    name: str, groups: Sequence[str], group: jax.Array, correct: Any, weights: Any
) -> Sums:
    """`NAME_GROUP_accuracy` of each group; `group` has indices into `groups`."""
    return {
        f"{name}_{each}_accuracy": Mean(
            (correct * (group == i)).sum(), (weights * (group == i)).sum()
        )
        for i, each in enumerate(groups)
    }


def row_shares(
    groups: Sequence[str], group_B: jax.Array | None, weights_B: jax.Array
) -> Sums:
    """`GROUP_rows`, each group's share of the rows; empty if `group_B` is None.

    `weights_B` is 0 for a row that only fills a batch.
    """
    if group_B is None:
        return {}
    total = weights_B.sum()
    return {
        f"{each}_rows": Mean((weights_B * (group_B == i)).sum(), total)
        for i, each in enumerate(groups)
    }
