"""A problem as an objective: the loop's own steps train it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.objectives.objective import Objective, Sums, stateless
from jaxlm.tasks.problem import Problem
from jaxlm.tasks.rows import TaskBatch
from jaxlm.tasks.shares import held


def task_objective(module: Any, problem: Problem, shares: Any) -> Objective:
    """Rows come whole from the host, so nothing is drawn but dropout.

    Args:
        module: a `TaskModel`.
        problem: what it learns.
        shares: of `shares_of`.
    """

    def weights(batch: TaskBatch) -> dict[str, jax.Array]:
        return {"task_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}

    def loss(params: Any, batch: TaskBatch, key: Any = None) -> Sums:
        logits = module.apply(
            {"params": held(params, shares)},
            batch.tokens,
            batch.token_types,
            batch.mask,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        return problem.sums(logits, batch)

    return Objective("blocks", lambda rows: rows, weights, stateless(loss))
