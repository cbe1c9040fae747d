"""The one training loop: config, source, workdir → checkpoints, metrics, a digest.

`source.py` says what a run trains on: a corpus or the files of a task.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from jaxlm.checkpoints import Checkpoints, Restored
from jaxlm.checkpoints.digests import state_sha256
from jaxlm.config import Phase, RunConfig
from jaxlm.data.rows import ahead
from jaxlm.sharding import (
    batch_parts,
    batch_sharding,
    check_batch,
    local_rows,
    make_mesh,
    to_devices,
)
from jaxlm.train.best_checkpoint import BestCheckpoint
from jaxlm.train.log import Log
from jaxlm.train.optim import Schedule, make_optimizer
from jaxlm.train.signals import stop_signals
from jaxlm.train.source import EvaluateFn, TrainingSource
from jaxlm.train.state import (
    Pretrained,
    TrainState,
    abstract_params,
    abstract_state,
    merge,
)
from jaxlm.train.step import make_train_step
from jaxlm.types import UserError

MAX_SKIPPED = 20  # steps in a row whose gradients may be not finite


class Outcome(NamedTuple):
    """How an invocation ended."""

    step: int
    interrupted: bool
    sha256: str
    figures: dict[str, float]  # of the last evaluation; empty without one


class Run(NamedTuple):
    """What stays the same through all phases."""

    config: RunConfig
    source: TrainingSource
    optimizer: optax.GradientTransformation
    schedule: Schedule
    abstract: TrainState  # shapes with shardings
    sharding: NamedSharding  # of a batch
    checkpoints: Checkpoints
    log: Log


def train(
    config: RunConfig,
    source: TrainingSource,
    workdir: str | Path,
    *,
    fallback: bool = False,
    initial: Callable[[str], Pretrained],
) -> Outcome:
    """Train to `config.steps` or `config.stop`.

    A run starts from the first of these that exists:

    1. The newest sound checkpoint of the workdir.
    2. `initial`: the parameters of `config.init`, with a fresh optimiser at step 0.
    3. Random weights, named by the seed.

    No data position is saved: the batch of step s is a function of (data, seed, s).

    Args:
        workdir: run directory, locked and checked by the caller (`workdir.py`).
        fallback: take an earlier checkpoint if the newest one is damaged.
        initial: reads the parameters of `config.init`; see `open/directory.py`.

    Raises:
        UserError: config, data, mesh and checkpoint do not fit each other, or
            gradients were not finite `MAX_SKIPPED` times in a row.
    """
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    module, zero_carry = source.module, source.zero_carry
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(module), source.lr_scales
    )
    checkpoints = Checkpoints(workdir, keep=config.keep, keeps=config.keeps)
    with jax.set_mesh(mesh), stop_signals() as interrupted, Log(workdir, config) as log:
        make, abstract = abstract_state(
            module, optimizer, mesh, seed=config.seed, zero_carry=zero_carry
        )
        sharding = batch_sharding(mesh)
        run = Run(
            config, source, optimizer, schedule, abstract, sharding, checkpoints, log
        )
        first = _first_state(run, make, initial, fallback)
        return _loop(run, first, workdir, interrupted)


def _loop(
    run: Run,
    first: Restored,
    workdir: str | Path,
    interrupted: Callable[[int], bool],
) -> Outcome:
    """Save, evaluate, step, log: from the first state to the last step."""
    config, source, log, checkpoints = run.config, run.source, run.log, run.checkpoints
    last = min(config.stop or config.steps, config.steps)
    state, start, digests, figures = first.state, first.step, first.digests, {}
    log.begin(start, last, first.meta.get("log"))
    for note in first.notes:
        log.say(note)
    if start >= last:
        log.say(f"nothing left to train: the run is already at step {start}")
    evaluate, best = _evaluation(run), None
    if evaluate and source.best:
        patience = int(source.patience * config.eval_every)  # in steps
        best = BestCheckpoint(workdir, source.best, patience=patience)
    feed = _feed(run, start, last)
    # The run was killed between this checkpoint and its evaluation.
    missing = start > 0 and not _on_all_hosts(log.evaluated)

    for step in range(start, max(start, last) + 1):
        impatient = best is not None and best.out_of_patience(step)
        stop = step >= last or impatient or interrupted(step)
        save = config.keeps(step) or (step > start and step % config.save_every == 0)
        if save or stop:
            with log.pause():
                digests = checkpoints.save(step, state, {"log": log.carry()})
                log.upload()
        if evaluate and (step > start or missing) and _due(config, step, last):
            with log.pause():
                figures = evaluate(state.params)
                # An evaluation that only --stop asks for must not choose: without
                # --stop it would not take place.
                if best and _due(config, step, config.steps):
                    best.offer(step, state.params, figures)
            log.evaluation(figures, source.figures)
        if stop:
            break
        train_step, batch = next(feed)
        state, metrics = train_step(state, batch)  # dispatched, not awaited
        if config.log.batches and log.wants(step + 1):
            metrics["batch_sha256"] = _sha256_of(batch)
        host = log.defer(step + 1, metrics)
        _check_finite(host)
        checkpoints.check()
    checkpoints.wait()
    if impatient and best:
        log.say(f"stopped early at step {step}: step {best.step} is still the best")
    return Outcome(step, step < last and not impatient, state_sha256(digests), figures)


def _first_state(
    run: Run,
    make: Callable[[], TrainState],
    initial: Callable[[str], Pretrained],
    fallback: bool,
) -> Restored:
    """What the run starts from, by the list in `train`."""
    orphans = run.checkpoints.open()
    notes = [f"removed {each}, left by a save that was killed" for each in orphans]
    restored = run.checkpoints.restore(run.abstract, fallback=fallback)
    if restored:
        notes += [*restored.notes, f"resuming at step {restored.step}"]
        return restored._replace(notes=notes)
    state = make()
    if run.config.init:
        random, new = state.params, run.source.new
        params, more = merge(initial(run.config.init), run.abstract.params, random, new)
        state = state._replace(params=params)
        notes += more
    return Restored(0, state, {}, {}, notes)


def _due(config: RunConfig, step: int, last: int) -> bool:
    """Whether a run that ends at `last` evaluates at a step."""
    return step == last or step % config.eval_every == 0


def _on_all_hosts(flag: bool) -> bool:
    """The flag of the first host, which alone keeps the log."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def _check_finite(figures: dict[str, Any] | None) -> None:
    if figures and figures["skipped_in_row"] >= MAX_SKIPPED:
        raise UserError(
            f"gradients were not finite for {MAX_SKIPPED} steps in a row up to step "
            f"{figures['step']}: lower --optim.peak or raise --optim.warmup; the last "
            "checkpoint is sound"
        )


def _feed(run: Run, start: int, last: int) -> Iterator[tuple[Callable[..., Any], Any]]:
    """(compiled train step, batch) for every step from `start` to `last`."""
    begin = 0
    for i, phase in enumerate(run.config.all_phases):
        first, until = max(start, begin) - begin, min(last, phase.until) - begin
        if first < until:
            yield from _feed_phase(run, phase, f"train.{i}", first, until)
        begin = phase.until


def _feed_phase(
    run: Run, phase: Phase, stream: str, first: int, until: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    config = run.config
    opened = run.source.open_stream(phase, stream)
    objective = opened.objective
    parts = phase.accumulate * batch_parts(run.sharding.mesh)
    held = functools.cache(functools.partial(local_rows, run.sharding))

    def read(step: int) -> tuple[int, Any]:
        count = opened.rows(step) if opened.rows else phase.batch
        # As many as micro-batches and devices divide.
        count = -(-count // parts) * parts
        return count, opened.read(step, held(count))

    batches = ahead(read, start=first, stop=until, threads=config.data.threads)
    transform = jax.jit(objective.transform, out_shardings=run.sharding)
    train_step = make_train_step(
        objective,
        run.optimizer,
        run.schedule,
        accumulate=phase.accumulate,
        seed=config.seed,
        dropout=opened.dropout,
    )
    # Pinned: XLA may choose other shardings for what the next step takes.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract)
    compiled: dict[Any, Callable[..., Any]] = {}
    for count, rows in batches:
        shapes = (count, *(array.shape for array in jax.tree.leaves(rows)))
        batch = transform(to_devices(rows, held(count), run.sharding, count))
        if shapes not in compiled:
            what = f"the step for {count} × {opened.length(rows)} tokens"
            tokens, flops = opened.tokens, opened.flops
            with run.log.compiling(what, tokens=tokens, flops=flops):
                jitted = jax.jit(
                    train_step, donate_argnums=0, out_shardings=(shardings, None)
                )
                compiled[shapes] = jitted.lower(run.abstract, batch).compile()
        yield compiled[shapes], batch


def _evaluation(run: Run) -> EvaluateFn | None:
    if not run.config.eval_every:
        return None
    found = run.source.evaluation(run.sharding)
    if isinstance(found, str):
        run.log.say(f"no evaluation: {found}")
        return None
    return found


def _sha256_of(batch: Any) -> str:
    """SHA-256 of a global batch: dtype, shape and bytes of its arrays in order."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        if not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
