"""A task as an objective, so that the pretraining loop trains it.

loss = task loss + λ · language-modelling loss of the same rows (GPT-1) + mix penalty

    tokens     start  a  film  extract  ·  ·
    targets    a  film  extract
    weights    ⅓  ⅓     ⅓      0        0  0       0 in a row that fills up a batch

In the language-modelling loss each row counts once however long it is, and so does each
row of a group (Radford et al. 2018, equation 5; openai/finetune-transformer-lm train.py
`model`, lm_losses).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.metrics import Figure, Mean, Sums
from jaxlm.models.gpt import head_rows
from jaxlm.models.kernels.head import head_cross_entropy
from jaxlm.objectives.objective import Objective, stateless
from jaxlm.tasks.batches import TaskBatch
from jaxlm.tasks.lr_scales import stop_frozen
from jaxlm.tasks.task import Task
from jaxlm.tasks.task_layers import penalty_of

# Baselines in an evaluation; each task computes its own figures.
FIGURES = (Figure(name="accuracy", baseline="majority_accuracy"),)


def task_objective(module: Any, task: Task, lr_scales: Any) -> Objective:
    """The loss of a task on a `TaskModel`; its batches come whole from the host."""
    lm_weight, penalty = task.config.task.lm_weight, task.config.task.penalty

    def weights(batch: TaskBatch) -> dict[str, jax.Array]:
        out = {"task_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}
        if lm_weight:
            out["lm_loss"] = jnp.maximum(next_token_weights(batch).sum(), 1.0)
        if penalty:
            out["mix_loss"] = out["task_loss"]
        return out

    def loss(params: Any, batch: TaskBatch, key: Any = None) -> Sums:
        logits, out = module.apply(
            {"params": stop_frozen(params, lr_scales)},
            batch.tokens,
            batch.token_types,
            batch.mask,
            segments=batch.segments,
            deterministic=key is None,
            encoded=True,
            rngs={} if key is None else {"dropout": key},
        )
        sums = task.sums(logits, batch)
        if lm_weight:
            sums |= _lm_sums(out, batch, module.config)
        if penalty:
            # Each micro-batch adds its share, as of the task's loss.
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


def next_token_weights(batch: TaskBatch) -> Float[Array, "R L"]:
    """The weight of the next token at each position of all rows."""
    mask: Any = batch.mask
    length = mask.shape[-1]
    group = mask.size // length // batch.weights.shape[0]
    follows = mask.reshape(-1, length)[:, 1:].astype(jnp.float32)
    each = follows / jnp.maximum(follows.sum(axis=1, keepdims=True), 1.0)
    rows = jnp.repeat(batch.weights, group)
    return jnp.pad(each * rows[:, None], ((0, 0), (0, 1)))


def _lm_sums(out: Any, batch: TaskBatch, config: Any) -> Sums:
    """Loss and accuracy of the next token, given the `Encoded` of a decoder."""
    tokens: Any = batch.tokens
    tokens_RL = tokens.reshape(-1, tokens.shape[-1])
    total, weight, correct = head_cross_entropy(
        out.last,
        out.table,
        jnp.roll(tokens_RL, -1, axis=1),
        next_token_weights(batch),
        classes=head_rows(config),
    )
    return {"lm_loss": Mean(total, weight), "lm_accuracy": Mean(correct, weight)}
