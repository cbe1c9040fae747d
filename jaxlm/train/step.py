"""(state, batch) → (state, sums): one update, however the batch is cut.

Every denominator is taken over the whole global batch first, so a micro-batch's loss is
Σ_k sum_k / weight_k with the global weights: gradients of micro-batches add up to that
of the batch, also with two losses of different weights.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.keys import key_for
from jaxlm.metrics import Mean
from jaxlm.objectives import Objective
from jaxlm.train.state import TrainState

Metrics = dict[str, Any]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accumulate: int,
    seed: int,
    dropout: bool,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The update as a pure function, to be jitted with the state donated.

    Args:
        objective: of the phase.
        optimizer: over the parameters.
        schedule: step → learning rate, for the metrics.
        accumulate: micro-batches, run one after another.
        seed: the run's; names dropout by (step, micro-batch).
        dropout: False: the forward pass is deterministic.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        weights = objective.weights(batch)

        def micro_loss(params, micro_batch, micro):
            key = key_for(seed, "dropout", state.step, micro) if dropout else None
            sums = objective.loss(params, micro_batch, key)
            parts = [sums[name].total / weights[name] for name in weights]
            loss = functools.reduce(operator.add, parts)
            return loss, {"loss": loss, **sums}

        gradient = jax.grad(micro_loss, has_aux=True)
        if accumulate == 1:
            grads, sums = gradient(state.params, batch, 0)
        else:
            grads, sums = _add_up(gradient, state.params, batch, accumulate)

        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        finite = jnp.isfinite(grad_norm)
        skipped = (~finite).astype(jnp.int32)
        keep: Any = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        new_state = TrainState(
            step=state.step + 1,
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            skipped=state.skipped + skipped,
            skipped_in_row=(state.skipped_in_row + 1) * skipped,
        )
        metrics = {
            **sums,
            "loss": Mean(sums["loss"], jnp.ones(())),
            "learning_rate": schedule(state.step),
            "grad_norm": grad_norm,
            "skipped": new_state.skipped,
            "skipped_in_row": new_state.skipped_in_row,
        }
        return new_state, metrics

    return train_step


def _add_up(gradient, params, batch, accumulate):
    """Gradients and sums of the micro-batches, added.

    Micro-batch m is rows m, m + accumulate, …: each device cuts up the rows it holds,
    and no row moves.
    """
    cut = jax.tree.map(
        lambda x: jnp.moveaxis(
            x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0
        ),
        batch,
    )

    def add(total, micro):
        return jax.tree.map(operator.add, total, gradient(params, *micro)), None

    numbers = jnp.arange(accumulate)
    shapes = jax.eval_shape(
        lambda: gradient(params, jax.tree.map(lambda x: x[0], cut), numbers[0])
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (cut, numbers))
    return total
