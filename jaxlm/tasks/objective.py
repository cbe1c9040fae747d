"""A problem as an objective: the loop's own steps train it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.objectives.objective import Objective, Sums, stateless
from jaxlm.tasks.problem import Problem
from jaxlm.tasks.rows import TaskBatch


def task_objective(module: Any, problem: Problem) -> Objective:
    """Rows come whole from the host, so nothing is drawn but dropout."""

    def weights(batch: TaskBatch) -> dict[str, jax.Array]:
        return {"task_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}

    def loss(params: Any, batch: TaskBatch, key: Any = None) -> Sums:
        logits = module.apply(
            {"params": params},
            batch.tokens,
            batch.token_types,
            batch.mask,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        return problem.sums(logits, batch)

    return Objective("blocks", lambda rows: rows, weights, stateless(loss))
