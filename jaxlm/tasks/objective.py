"""A problem as an objective: the loop's own steps train it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.objectives.objective import Objective, Sums, stateless
from jaxlm.tasks.language import language_sums, next_weights
from jaxlm.tasks.problem import Problem
from jaxlm.tasks.rows import TaskBatch
from jaxlm.tasks.shares import held


def task_objective(
    module: Any, problem: Problem, shares: Any, lm_weight: float = 0.0
) -> Objective:
    """Rows come whole from the host, so nothing is drawn but dropout.

    Args:
        module: a `TaskModel`.
        problem: what it learns.
        shares: of `shares_of`.
        lm_weight: share of the rows' own language in what is minimised; of a GPT.
    """

    def weights(batch: TaskBatch) -> dict[str, jax.Array]:
        out = {"task_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}
        if lm_weight:
            # λ · sum / rows: the sum itself stays what it is, for the metrics.
            rows = jnp.maximum(next_weights(batch).sum(), 1.0)
            out["lm_loss"] = rows / lm_weight
        return out

    def loss(params: Any, batch: TaskBatch, key: Any = None) -> Sums:
        told = module.apply(
            {"params": held(params, shares)},
            batch.tokens,
            batch.token_types,
            batch.mask,
            deterministic=key is None,
            encoded=lm_weight > 0,
            rngs={} if key is None else {"dropout": key},
        )
        if not lm_weight:
            return problem.sums(told, batch)
        logits, out = told
        language = language_sums(out, batch, module.config)
        return {**problem.sums(logits, batch), **language}

    return Objective("blocks", lambda rows: rows, weights, stateless(loss))
