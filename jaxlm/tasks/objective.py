"""A task as an objective, so that the pretraining loop trains it.

loss = task loss + λ · language-modelling loss of the same rows (GPT-1) + mix penalty

    tokens     start  a  film  extract  ·  ·
    targets    a  film  extract
    weights    ⅓  ⅓     ⅓      0        0  0       0 in a row that fills up a batch

In the language-modelling loss, all rows have the same weight, whatever their length or
group (Radford et al. 2018, equation 5; openai/finetune-transformer-lm train.py `model`,
lm_losses). Each parameter has a factor on its learning rate:

    head, pooler    1
    layer n of N    d^(N - n)      n from 0: the last layer d, the first one d^N
    embedding       d^(N + 1)
    frozen          0              no gradient, no decay

as in Clark et al. 2020 (ELECTRA), appendix B.
"""

import difflib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm.config import TaskConfig
from jaxlm.metrics import Figure, Mean, Sums
from jaxlm.models.gpt import head_rows
from jaxlm.models.kernels.head import head_cross_entropy
from jaxlm.models.mix import mix_penalty
from jaxlm.objectives.objective import Objective, stateless
from jaxlm.sharding import stacked
from jaxlm.tasks.batches import TaskBatch
from jaxlm.tasks.model import MIXES
from jaxlm.tasks.task import Task
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError

# Baselines in an evaluation; each task computes its own figures. Its loss is named
# `task_loss` there too, because λ and the penalty are added in training alone.
FIGURES = (Figure(name="accuracy", baseline="majority_accuracy"),)
_EMBEDDING = re.compile(r"(.*/)?(embed|words)/.*")


def task_objective(module: Any, task: Task, lr_scales: Any) -> Objective:
    """The objective of a task for a `TaskModel`; the host makes complete batches."""
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
            tokens: Any = batch.tokens
            total, weight, correct = head_cross_entropy(
                out.head.x,
                out.head.table,
                jnp.roll(tokens.reshape(-1, tokens.shape[-1]), -1, axis=1),
                next_token_weights(batch),
                classes=head_rows(module.config),
            )
            sums["lm_loss"], sums["lm_accuracy"] = (
                Mean(each, weight) for each in (total, correct)
            )
        if penalty:
            # Each micro-batch adds its share, as of the task's loss.
            weight = batch.weights.sum()
            mixes = (params[name] for name in MIXES if name in params)
            total: Any = sum(mix_penalty(mix, penalty) for mix in mixes)
            sums["mix_loss"] = Mean(total * weight, weight)
        return sums

    losses = Figure(name="task"), Figure(name="lm", scale=lm_weight), Figure(name="mix")
    figures = (*FIGURES, *losses)
    return Objective("blocks", lambda rows: rows, weights, stateless(loss), figures)


def next_token_weights(batch: TaskBatch) -> Float[Array, "R L"]:
    """The weight of next-token prediction at each position of all R rows."""
    mask: Any = batch.mask
    length = mask.shape[-1]
    group = mask.size // length // batch.weights.shape[0]
    follows = mask.reshape(-1, length)[:, 1:].astype(jnp.float32)
    each = follows / jnp.maximum(follows.sum(axis=1, keepdims=True), 1.0)
    rows = jnp.repeat(batch.weights, group)
    return jnp.pad(each * rows[:, None], ((0, 0), (0, 1)))


def lr_scales_of(task: TaskConfig, num_layers: int, params: Any) -> Any:
    """The learning-rate factor of each leaf, [N, 1, …] if stacked; None: all are 1."""
    if task.layer_decay == 1 and not task.freeze:
        return None
    frozen = select(task.freeze, params, "freeze")

    def scale(path: str, leaf: Any, layers: bool) -> Any:
        if path in frozen:
            return 0.0
        if _EMBEDDING.fullmatch(path):
            return task.layer_decay ** (num_layers + 1)
        if layers:
            each = task.layer_decay ** np.arange(leaf.shape[0], 0, -1)
            return each.astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        return 1.0

    return map_with_path(scale, params, stacked(params))


def select(patterns: tuple[str, ...], params: Any, field: str) -> set[str]:
    """The paths that some regular expression of `--task.FIELD` matches completely."""
    paths = [path for path, _ in leaves(params)]
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise UserError(f"--task.{field} {pattern!r}: {error}") from None
        if not matched:
            near = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
            this = f"--task.{field} {pattern!r} matches no parameter"
            raise UserError(f"{this}; one is {near[0]}")
        found |= matched
    return found


def stop_frozen(params: Any, lr_scales: Any) -> Any:
    """The parameters; gradients do not flow to frozen ones."""
    if lr_scales is None:
        return params
    return jax.tree.map(
        lambda leaf, scale: leaf if np.any(scale) else jax.lax.stop_gradient(leaf),
        params,
        lr_scales,
    )
