"""The one training loop: config + corpus + workdir → checkpoints, metrics, a digest.

Where a run starts, in this order:

1. The newest sound checkpoint of this workdir, whatever else is asked for.
2. `--init`: the parameters of another run or of a model directory, with a fresh
   optimiser at step 0.
3. Random weights, named by the seed.

No data position is saved: the batch of step s is a function of (corpus, seed, s).
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from jaxlm.checkpoints import Checkpoints, Restored
from jaxlm.config import Phase, RunConfig
from jaxlm.data.device import local_rows, to_devices
from jaxlm.data.pipeline import batches, open_rows
from jaxlm.digests import state_sha256
from jaxlm.evaluate import open_evaluation
from jaxlm.models import LanguageModel, build
from jaxlm.models.flops import train_flops
from jaxlm.objectives import objective_of
from jaxlm.sharding import batch_sharding, check_batch, make_mesh
from jaxlm.text.corpus import Corpus
from jaxlm.train.log import Log
from jaxlm.train.optim import Schedule, make_optimizer
from jaxlm.train.state import TrainState, abstract_params, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.types import UserError

# (shapes with shardings, random parameters) → (parameters, notes on them).
Initial = Callable[[Any, Any], tuple[Any, list[str]]]


class Outcome(NamedTuple):
    """How an invocation ended."""

    step: int
    interrupted: bool
    sha256: str
    figures: dict[str, float]  # of the last evaluation; empty without one


class Run(NamedTuple):
    """What stays the same through all phases."""

    config: RunConfig
    corpus: Corpus
    module: LanguageModel
    optimizer: optax.GradientTransformation
    schedule: Schedule
    sharding: NamedSharding  # of a batch
    log: Log


def train(
    config: RunConfig,
    corpus: Corpus,
    workdir: str | Path,
    *,
    fallback: bool = False,
    initial: Initial | None = None,
) -> Outcome:
    """Train to `config.steps` (or `config.stop`), going on from what the workdir holds.

    Args:
        config: the run; its mathematics equals that of the workdir's earlier part.
        corpus: open, with a vocabulary of `config.model.vocab_size`.
        workdir: run directory, locked by the caller.
        fallback: take an earlier checkpoint where the newest one is damaged.
        initial: the parameters of `config.init`; None: it is a run directory.

    Raises:
        UserError: config, corpus, mesh and checkpoint do not fit each other, or
            gradients were not finite `config.max_skipped` times in a row.
    """
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    last = min(config.stop or config.steps, config.steps)
    module = build(config.model, dtype=jnp.dtype(config.precision), remat=config.remat)
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(module)
    )
    checkpoints = Checkpoints(workdir, keep=config.keep, keep_every=config.keep_every)

    with (
        jax.set_mesh(mesh),
        _signals() as interrupted,
        Log(workdir, config) as log,
    ):
        make, abstract = abstract_state(
            module, optimizer, mesh, seed=config.seed, rows=config.rows
        )
        if config.init and initial is None:
            initial = _of_run(config.init)
        first = _first_state(initial, checkpoints, abstract, make, fallback)
        state, start, digests, figures = first.state, first.step, first.digests, {}
        log.begin(start, last, first.meta.get("log"))
        for note in first.notes:
            log.say(note)
        sharding = batch_sharding(mesh)
        run = Run(config, corpus, module, optimizer, schedule, sharding, log)
        evaluate = _evaluation(run)
        feed = _feed(run, abstract, start, last)

        for step in range(start, last + 1):
            stop = step == last or interrupted(step)
            if stop or (step > start and step % config.save_every == 0):
                with log.pause():
                    digests = checkpoints.save(step, state, {"log": log.carry()})
                    log.upload()
            if evaluate and step > start and _evaluates(config, step, last):
                with log.pause():
                    figures = evaluate(state.params)
                log.evaluation(step, figures)
            if stop:
                break
            train_step, batch = next(feed)
            state, metrics = train_step(state, batch)
            wanted = config.log.batches and log.wants(step + 1)
            host = log.defer(step + 1, metrics, _sha256_of(batch) if wanted else "")
            _check_finite(host, config.max_skipped)
            checkpoints.check()
        checkpoints.close()
    return Outcome(step, step < last, state_sha256(digests), figures)


def _first_state(
    initial: Initial | None,
    checkpoints: Checkpoints,
    abstract: TrainState,
    make: Callable[[], TrainState],
    fallback: bool,
) -> Restored:
    """Where to start from: the list in this file's docstring."""
    notes = [
        f"removed {orphan}, left by a save that was killed"
        for orphan in checkpoints.open()
    ]
    restored = checkpoints.restore(abstract, fallback=fallback)
    if restored:
        notes += [*restored.notes, f"resuming at step {restored.step}"]
        return restored._replace(notes=notes)
    state = make()
    if initial:
        params, more = initial(abstract.params, state.params)
        state = state._replace(params=params)
        notes += more
    return Restored(0, state, {}, {}, notes)


def _of_run(directory: str) -> Initial:
    """The parameters of its newest checkpoint."""

    def parameters(abstract: Any, _: Any) -> tuple[Any, list[str]]:
        theirs = Checkpoints(directory).restore(abstract, part="params/")
        if theirs is None:
            raise UserError(f"--init {directory} holds no checkpoint of a run")
        return theirs.state, [f"parameters of {directory} at step {theirs.step}"]

    return parameters


def _evaluates(config: RunConfig, step: int, last: int) -> bool:
    return step == last or step % config.eval_every == 0


def _check_finite(host: dict[str, Any] | None, most: int) -> None:
    if host and host["skipped_in_row"] >= most:
        raise UserError(
            f"gradients were not finite for {most} steps in a row up to step "
            f"{host['step']}: lower --optim.peak or raise --optim.warmup; the last "
            "checkpoint is sound"
        )


def _feed(
    run: Run, abstract: TrainState, start: int, last: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """(compiled train step, batch) of every step from `start` on, phase after phase."""
    begin = 0
    for i, phase in enumerate(run.config.stretches):
        first, until = max(start, begin) - begin, min(last, phase.until) - begin
        if first < until:
            yield from _feed_phase(run, abstract, phase, f"train.{i}", first, until)
        begin = phase.until


def _feed_phase(
    run: Run, abstract: TrainState, phase: Phase, stream: str, first: int, until: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    config = run.config
    objective = objective_of(
        config, run.module, run.corpus.manifest, phase, stream=stream
    )
    source = open_rows(
        config,
        run.corpus,
        objective.layout,
        split=0,
        length=phase.length,
        batch=phase.batch,
        stream=stream,
    )
    local = local_rows(run.sharding, phase.batch)
    rows = batches(
        source, phase.batch, local, start=first, stop=until, threads=config.data.threads
    )
    transform = jax.jit(objective.transform, out_shardings=run.sharding)
    train_step = make_train_step(
        objective,
        run.optimizer,
        run.schedule,
        accumulate=phase.accumulate,
        seed=config.seed,
        dropout=config.model.dropout > 0,
    )
    compiled = None
    for each in rows:
        batch = transform(to_devices(each, local, run.sharding, phase.batch))
        if compiled is None:
            flops = train_flops(config.model, phase, config.data.negatives)
            with run.log.compiling(phase, flops):
                jitted = jax.jit(train_step, donate_argnums=0)
                compiled = jitted.lower(abstract, batch).compile()
        yield compiled, batch


def _evaluation(run: Run) -> Callable[[Any], dict[str, float]] | None:
    """Evaluation on the held-out documents, in rows of the first phase's shape."""
    config, phase = run.config, run.config.stretches[0]
    held_out = int(np.sum(run.corpus.documents[:, 2] == 1))
    needed = 2 if getattr(config.model, "nsp", False) else 1
    if not config.eval_every:
        return None
    if held_out < needed:
        run.log.say(f"no evaluation: {held_out} held-out documents, {needed} needed")
        return None
    return open_evaluation(
        config,
        run.module,
        run.corpus,
        run.sharding,
        split=1,
        phase=phase,
        batch=phase.batch // phase.accumulate,
        limit=config.eval_rows,
    )


def _sha256_of(batch: Any) -> str:
    """Of a global batch: its arrays in order, each with dtype and shape."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        if not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


@contextmanager
def _signals() -> Iterator[Callable[[int], bool]]:
    """Whether SIGTERM or Ctrl-C has asked to stop; a second one ends at once.

    With several hosts all stop after the same step, wherever the signal arrived. It is
    jax's own handler of SIGTERM that tells the others: ours would replace it, so it
    stays, and Ctrl-C is passed on to it.
    """
    asked, several = False, jax.process_count() > 1

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        if several:
            signal.raise_signal(signal.SIGTERM)

    def interrupted(step: int) -> bool:
        if several:
            return multihost_utils.reached_preemption_sync_point(step)
        return asked

    caught = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
