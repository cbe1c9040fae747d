"""(state, batch, seed) → (state, metrics): one update, in any number of micro-batches.

Every denominator is first taken over the whole global batch: the loss of a micro-batch
is Σ_k scale_k · sum_k / weight_k with the global weights. So the gradients of
micro-batches add up to that of the batch, even for two losses with different weights.

Between steps, the devices of the mesh axis `data` hold one copy of the state together
(ZeRO): a step gathers the parameters, and each device updates its own part.

A step whose gradient is not finite, or whose update would take a parameter past LARGEST
or any part of the state past the finite numbers, is skipped: only the counts change.

A step may read only some rows of a large table (`Objective.sampled_rows`). Those rows
are gathered, trained as if they were the table, and scattered back. This is exact if
the optimiser leaves rows without a gradient unchanged (`OptimConfig.keeps_rows`).
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.keys import Ids, hashed, key_for
from jaxlm.metrics import Mean, scales
from jaxlm.objectives.objective import Objective, SampledRows
from jaxlm.sharding import by_replica, gathered, scattered
from jaxlm.train.state import LARGEST, TrainState
from jaxlm.tree import map_with_path


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accumulate: int,
    dropout: bool,
    bits: str = "threefry",
) -> Callable[[TrainState, Any, Ids], tuple[TrainState, dict[str, Any]]]:
    """The update (state, batch, seed) → (state, metrics), a pure function to be jitted.

    `schedule` is only for the metrics. `accumulate` is the number of micro-batches,
    which run in sequence. The `dropout` key is named by seed, step and micro-batch; its
    `bits` are those of `RunConfig.dropout_bits`.
    """
    scale = scales(objective.figures)

    def train_step(
        state: TrainState, batch: Any, seed: Ids
    ) -> tuple[TrainState, dict[str, Any]]:
        weights = objective.weights(batch)
        sampled = None
        if objective.sampled_rows:
            key = key_for(seed, "negatives", state.step)
            sampled = objective.sampled_rows(batch, key)
        old = _gather((state.params, state.opt_state), sampled)
        old_params, old_opt_state = old

        def micro_loss(params, micro_batch, micro_carry, micro):
            key: Any = key_for(seed, "dropout", state.step, micro) if dropout else None
            key = hashed(key) if dropout and bits == "hash" else key
            sums, carry = objective.loss(params, micro_batch, micro_carry, key, sampled)
            sums = {k: x for k, x in sums.items() if isinstance(x, Mean)}
            parts = [scale[k] * (sums[k].total / weights[k]) for k in weights]
            loss = functools.reduce(operator.add, parts)
            return loss, ({"loss": loss, **sums}, carry)

        gradient = jax.grad(micro_loss, has_aux=True)
        whole = gathered(old_params)
        if accumulate == 1:
            grads, (sums, carry) = gradient(whole, batch, state.carry, 0)
        else:
            # A mask of dropout is drawn for the rows of all replicas.
            each = by_replica if not dropout else lambda add, *of: add(*of)
            add = functools.partial(_add_up, gradient, accumulate)
            grads, sums, carry = each(add, whole, batch, state.carry)
        grads = scattered(grads)

        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, old_opt_state, old_params)
        params = optax.apply_updates(old_params, updates)

        # An update that is not sound changes nothing but the counts.
        sound = jnp.isfinite(grad_norm) & _all(jnp.isfinite, (opt_state, carry))
        sound &= _all(lambda x: jnp.abs(x) <= LARGEST, params)  # false for NaN
        skipped = (~sound).astype(jnp.int32)
        keep: Any = lambda new, old: jnp.where(sound, new, old)  # noqa: E731
        new = jax.tree.map(keep, (params, opt_state), old)
        params, opt_state = _scatter((state.params, state.opt_state), new, sampled)
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


def _add_up(gradient, accumulate, params, batch, carry):
    """(gradients, sums, carry): sums over all micro-batches, and the carry of all rows.

    Micro-batch m has rows m, m + accumulate, …: each device splits its own rows, and no
    row moves between devices.
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


def _all(test: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """Whether a test of numbers holds for all floats of a tree."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    found = [jnp.all(test(x)) for x in floats]
    return jnp.all(jnp.stack([*found, jnp.array(True)]))


def _gather(tree, sampled: SampledRows | None):
    """`tree` with only the sampled rows of its large tables."""
    if sampled is None:
        return tree

    def rows(path, leaf):
        return leaf[sampled.rows] if path.endswith(sampled.tables) else leaf

    return map_with_path(rows, tree)


def _scatter(tree, new, sampled: SampledRows | None):
    """`new`, with its sampled rows put back into the large tables of `tree`."""
    if sampled is None:
        return new

    def whole(path, leaf, rows):
        if not path.endswith(sampled.tables):
            return rows
        return leaf.at[sampled.rows].set(rows, mode="drop", indices_are_sorted=True)

    return map_with_path(whole, tree, new)
