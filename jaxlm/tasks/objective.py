"""A problem as an objective: the loop's own steps train it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.metrics import Mean
from jaxlm.objectives.figures import Compared, Figure
from jaxlm.objectives.objective import Objective, Sums, stateless
from jaxlm.tasks.language import language_sums, next_weights
from jaxlm.tasks.lr_scales import held
from jaxlm.tasks.rows import TaskBatch
from jaxlm.tasks.task import Task
from jaxlm.tasks.task_layers import penalty_of

# Of an evaluation: the figures are the task's own.
FIGURES = (Compared(name="accuracy", baseline="majority_accuracy"),)


def task_objective(
    module: Any,
    problem: Task,
    shares: Any,
    *,
    lm_weight: float = 0.0,
    penalty: float = 0.0,
) -> Objective:
    """Rows come whole from the host, so nothing is drawn but dropout.

    Args:
        module: a `TaskModel`.
        problem: what it learns.
        shares: of `lr_scales_of`.
        lm_weight: share of the rows' own language in what is minimised; of a GPT.
        penalty: λ of `mix_penalty`.
    """

    def weights(batch: TaskBatch) -> dict[str, jax.Array]:
        out = {"task_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}
        if lm_weight:
            out["lm_loss"] = jnp.maximum(next_weights(batch).sum(), 1.0)
        if penalty:
            out["mix_loss"] = out["task_loss"]
        return out

    def loss(params: Any, batch: TaskBatch, key: Any = None) -> Sums:
        told = module.apply(
            {"params": held(params, shares)},
            batch.tokens,
            batch.token_types,
            batch.mask,
            segments=batch.segments,
            deterministic=key is None,
            encoded=lm_weight > 0,
            rngs={} if key is None else {"dropout": key},
        )
        logits, out = told if lm_weight else (told, None)
        sums = problem.sums(logits, batch)
        if lm_weight:
            sums |= language_sums(out, batch, module.config)
        if penalty:
            # Each micro-batch has its part of it, as of the task's loss.
            weight = batch.weights.sum()
            sums["mix_loss"] = Mean(penalty_of(params, penalty) * weight, weight)
        return sums

    figures = (
        *FIGURES,
        Figure(name="task"),
        Figure(name="lm", scale=lm_weight),
        Figure(name="mix"),
    )
    return Objective("blocks", lambda rows: rows, weights, stateless(loss), figures)
