"""(state, batch) → (state, sums): one update, however the batch is cut.

Every denominator is taken over the whole global batch first, so a micro-batch's loss is
Σ_k sum_k / weight_k with the global weights: gradients of micro-batches add up to that
of the batch, also with two losses of different weights.

Of a large table a step may read only some rows (`Objective.sampled_rows`). Those rows
are gathered, trained as if they were the table, and scattered back. This is exact where
the optimiser leaves a row without a gradient as it is.
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
from jaxlm.objectives import Objective, SampledRows
from jaxlm.train.state import TrainState
from jaxlm.tree import map_with_path

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
        sampled_rows = None
        if objective.sampled_rows:
            key = key_for(seed, "negatives", state.step)
            sampled_rows = objective.sampled_rows(batch, key)
        old = _rows_of((state.params, state.opt_state), sampled_rows)
        old_params, old_opt_state = old

        def micro_loss(params, micro_batch, micro_carry, micro):
            key = key_for(seed, "dropout", state.step, micro) if dropout else None
            sums, carry = objective.loss(
                params, micro_batch, micro_carry, key, sampled_rows
            )
            parts = [sums[name].total / weights[name] for name in weights]
            loss = functools.reduce(operator.add, parts)
            return loss, ({"loss": loss, **sums}, carry)

        gradient = jax.grad(micro_loss, has_aux=True)
        if accumulate == 1:
            grads, (sums, carry) = gradient(old_params, batch, state.carry, 0)
        else:
            grads, sums, carry = _add_up(
                gradient, old_params, batch, state.carry, accumulate
            )

        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, old_opt_state, old_params)
        params = optax.apply_updates(old_params, updates)

        finite = jnp.isfinite(grad_norm)
        skipped = (~finite).astype(jnp.int32)
        keep: Any = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        new = jax.tree.map(keep, (params, opt_state), old)
        params, opt_state = _with_rows(
            (state.params, state.opt_state), new, sampled_rows
        )
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            skipped=state.skipped + skipped,
            skipped_in_row=(state.skipped_in_row + 1) * skipped,
            carry=jax.tree.map(keep, carry, state.carry),
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


def _add_up(gradient, params, batch, carry, accumulate):
    """Gradients and sums of the micro-batches, added; the carry of all rows.

    Micro-batch m is rows m, m + accumulate, …: each device cuts up the rows it holds,
    and no row moves.
    """
    cut = jax.tree.map(
        lambda x: jnp.moveaxis(
            x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0
        ),
        (batch, carry),
    )

    def one(micro):
        grads, (sums, carry) = gradient(params, *micro)
        return (grads, sums), carry

    def add(total, micro):
        each, carry = one(micro)
        return jax.tree.map(operator.add, total, each), carry

    micros = (*cut, jnp.arange(accumulate))
    shapes, _ = jax.eval_shape(lambda: one(jax.tree.map(lambda x: x[0], micros)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (grads, sums), carries = jax.lax.scan(add, zeros, micros)
    whole = jax.tree.map(
        lambda x, c: jnp.moveaxis(x, 0, 1).reshape(c.shape), carries, carry
    )
    return grads, sums, whole


def _rows_of(tree, sampled_rows: SampledRows | None):
    """`tree` with the sampled rows of its large tables in their place."""
    if sampled_rows is None:
        return tree

    def one(path, leaf):
        return leaf[sampled_rows.rows] if path.endswith(sampled_rows.tables) else leaf

    return map_with_path(one, tree)


def _with_rows(tree, new, sampled_rows: SampledRows | None):
    """What `_rows_of` took from `tree`, changed, put back."""
    if sampled_rows is None:
        return new

    def one(path, leaf, small):
        if not path.endswith(sampled_rows.tables):
            return small
        return leaf.at[sampled_rows.rows].set(
            small, mode="drop", indices_are_sorted=True
        )

    return map_with_path(one, tree, new)
