"""Parameters and rows → scores of every row, in a few compiled shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import FinetuneConfig
from jaxlm.data.device import local_rows, to_devices
from jaxlm.data.pipeline import ahead
from jaxlm.sharding import replicated
from jaxlm.tasks.buckets import NONE, bucket_lengths, in_order
from jaxlm.tasks.rows import TaskRows, batch_of
from jaxlm.tasks.task import Scores


def scorer(
    config: FinetuneConfig,
    module: Any,
    sharding: NamedSharding,
    *,
    batch: int,
) -> Callable[[Any, TaskRows], Scores]:
    """(parameters, rows) → scores of each row, without dropout.

    Args:
        config: of the run.
        module: a `TaskModel`.
        sharding: of the rows of a batch.
        batch: rows at a time.
    """

    # Whole on every device, so that every host can read it.
    def apply(params, each):
        inputs = each.tokens, each.token_types, each.mask
        return module.apply({"params": params}, *inputs)

    apply = jax.jit(apply, out_shardings=replicated(sharding.mesh))
    local = local_rows(sharding, batch)

    def scores(params: Any, rows: TaskRows) -> Scores:
        lengths = rows.lengths
        padded = bucket_lengths(lengths, config.task.buckets, config.length)
        plan = in_order(padded, batch)
        feed = ahead(
            lambda step: batch_of(
                rows, plan.rows[step][local], int(plan.lengths[step])
            ),
            start=0,
            stop=len(plan.rows),
            threads=2,
        )
        out: list[Any] = [None] * len(lengths)
        for index, each in zip(plan.rows, feed, strict=True):
            found = np.asarray(apply(params, to_devices(each, local, sharding, batch)))
            for i, score in zip(index, found, strict=True):
                if i != NONE:
                    out[i] = score[: lengths[i]] if score.ndim == 2 else score
        return out

    return scores
