"""The training loop: config, source, workdir → checkpoints, metrics, a digest.

The source is a corpus (`source.py`) or the files of a task (`jaxlm/tasks`).
"""

import functools
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlm import xla
from jaxlm.checkpoints import Checkpoints, Restored, RunFiles, state_sha256
from jaxlm.checkpoints.leaf_files import first_line
from jaxlm.config import RunConfig
from jaxlm.memory import exhausted
from jaxlm.sharding import mesh_notes
from jaxlm.train.fits import remedies
from jaxlm.train.fork import forked_state
from jaxlm.train.log import Log
from jaxlm.train.profile import profiling
from jaxlm.train.source import Run, TrainingSource, feed, open_run
from jaxlm.train.state import LARGEST, Pretrained, TrainState, merge
from jaxlm.train.stopping import Best, stop_signals
from jaxlm.train.times import watching
from jaxlm.types import UserError


class Outcome(NamedTuple):
    """How an invocation ended."""

    step: int
    interrupted: bool
    sha256: str


def train(
    config: RunConfig,
    source: TrainingSource,
    workdir: str | Path,
    *,
    initial: Callable[[str], Pretrained],
    fallback: bool = False,
    profile: str = "",
) -> Outcome:
    """Train to `config.steps` or `config.stop`.

    A run starts from the first of these that exists:

    1. The newest checkpoint of the workdir.
    2. The checkpoint of another run that `config.fork` names (`fork.py`).
    3. The parameters of `config.init`, with a fresh optimiser at step 0.
    4. Random weights, which depend on the seed.

    Every state is sound: its numbers are finite, its parameters at most LARGEST. An
    unsound checkpoint is refused, and a step keeps the state sound (`step.py`).

    No data position is saved: the batch of step s is a function of (data, seed, s). The
    caller has locked and checked the workdir (`workdir.py`). `initial` reads the
    parameters of `config.init` (`jaxlm/open`). With `fallback`, a damaged checkpoint is
    skipped; without it, a damaged checkpoint is an error. `profile` is START:STOP, the
    steps to trace (`profile.py`).
    """
    files = RunFiles(config, source.digests)
    checkpoints = Checkpoints(workdir, keep=config.keep, keeps=config.keeps, run=files)
    last = min(config.stop or config.steps, config.steps)
    run, make = open_run(config, source, checkpoints)
    try:
        with jax.set_mesh(run.mesh), stop_signals() as interrupted:
            first = _first_state(run, make, initial, fallback)
            until = first.step, last
            with (
                Log(workdir, config, *until, first.meta.get("log")) as log,
                watching(log, workdir),
                profiling(profile, workdir, *until, log) as trace,
            ):
                outcome = _loop(run, log, trace, first, last, interrupted)
    except Exception as error:
        if jax.process_count() == 1:  # else a lost host would be waited for
            checkpoints.wait()
        if isinstance(error, UserError) or not exhausted(error):
            raise
        raise MemoryError(f"{first_line(error)}; {remedies(run)}") from error
    return outcome


def _loop(
    run: Run,
    log: Log,
    trace: Callable[[int], None],
    first: Restored,
    last: int,
    interrupted: Callable[[int], bool],
) -> Outcome:
    """Save, evaluate, step and log, from the first state to the last step."""
    config, source, checkpoints = run.config, run.source, run.checkpoints
    state, start, digests = first.state, first.step, first.digests
    said = mesh_notes(config.mesh, run.mesh)
    for note in [*first.notes, *said, *xla.notes(config)]:
        log.say(note)
    if start >= last:
        log.say(f"nothing left to train: the run is already at step {start}")
    evaluate = _opened(run, log, "evaluation", source.evaluation)
    sample = _opened(run, log, "samples", source.samples)
    best = Best(run, first.meta.get("best")) if evaluate and source.best else None
    batches = feed(run, log, start, last)
    # The run was killed between this checkpoint and its evaluation.
    missing = start > 0 and not log.evaluated
    if jax.process_count() > 1:
        missing = bool(multihost_utils.broadcast_one_to_all(np.array(missing)))
    sound = first.meta.get("sound", start or None)  # newest saved step, not skipped

    for step in range(start, max(start, last) + 1):
        trace(step)
        impatient = best is not None and best.out_of_patience(step)
        stop = step >= last or impatient or interrupted(step)
        # A fork begins with a checkpoint of its own.
        due = step % config.save_every == 0 if step > start else config.fork
        if stop or due or config.keeps(step):
            log.flush()
            _check_sound(run, log.skipped, sound)
            sound = sound if log.skipped or step == start > 0 else step
            with log.pause("save"):
                kept = {"sound": sound, "best": best.step if best else None}
                meta = {"log": log.carry(), **kept}
                log.record_times()  # first: no checkpoint is newer than the metrics
                digests = checkpoints.save(step, state, meta, held=sound)
        due = config.eval_every and step % config.eval_every == 0
        due_here = (step > start or missing) and (due or step == last)
        if sample and due_here:  # first: an evaluated step has its samples
            with log.pause("evaluate"):
                log.samples(sample(state.params))
        if evaluate and due_here:
            with log.pause("evaluate"):
                figures = evaluate(state.params)
                # An evaluation that only --stop asks for must not choose: without
                # --stop it would not take place.
                if best and (due or step == config.steps):
                    best.offer(step, state.params, figures)
            log.evaluation(figures, source.figures)
        if stop:
            break
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            with log.times.during("data", then="step"):
                train_step, batch = next(batches)
            state, metrics = train_step(state, batch, run.seed)  # not awaited
        if config.log.batches and log.wants(step + 1):
            metrics["batch_sha256"] = _sha256_of(batch)
        log.defer(step + 1, metrics)
        _check_sound(run, log.skipped, sound)
        checkpoints.check()
    if impatient and best:
        log.say(f"stopped early at step {step}: step {best.step} is still the best")
    with log.pause("save"):
        checkpoints.wait()
    cut = step < last and not impatient
    if step > start:
        log.record_times(ended=not cut)
        log.say(log.times.said())
    return Outcome(step, cut, state_sha256(digests))


def _opened(run: Run, log: Log, what: str, open_one: Any) -> Any:
    """A function of parameters, or None after saying why there is none."""
    found = open_one(run.sharding) if open_one and run.config.eval_every else None
    if isinstance(found, str):
        log.say(f"no {what}: {found}")
        return None
    return found


def _first_state(
    run: Run,
    make: Callable[[], TrainState],
    initial: Callable[[str], Pretrained],
    fallback: bool,
) -> Restored:
    """The state that the run starts from; see the list in `train`."""
    orphans = run.checkpoints.open()
    notes = [f"removed {each}, left by a save that was killed" for each in orphans]
    find: Any = functools.partial(run.checkpoints.restore, run.abstract, bound=LARGEST)
    if restored := find(fallback=fallback):
        notes += [*restored.notes, f"resuming at step {restored.step}"]
        return restored._replace(notes=notes)
    if run.config.fork:
        return forked_state(run.config.fork, run.abstract)
    state = make()
    if run.config.init:
        pretrained, new = initial(run.config.init), run.source.new
        params, more = merge(pretrained, run.abstract.params, state.params, new)
        state = state._replace(params=params)
        notes += more
    return Restored(0, state, {}, {}, notes)


def _check_sound(run: Run, skipped: range, sound: int | None) -> None:
    """End a run that diverges: say what happened and how to go on from step `sound`."""
    config, workdir = run.config, run.checkpoints.directory.parent
    if len(skipped) < config.max_skipped:
        return
    run.checkpoints.wait()
    what = (
        f"steps {skipped.start} to {skipped[-1]} were skipped: gradients were not "
        f"finite, or a parameter went beyond {LARGEST:g}"
    )
    slower = f"--optim.peak {config.optim.peak / 2:g}"
    if sound is None or config.finetunes:
        none = "no checkpoint is older"
        last = none if sound is None else f"step {sound} is sound"
        raise UserError(f"{what}; {last}: begin another --workdir with {slower}")
    low, high = map(config.batch_number, (skipped.start - 1, skipped[-1] - 1))
    fork, new = shlex.quote(f"{workdir}@{sound}"), shlex.quote(f"{workdir}-{sound}")
    raise UserError(
        f"{what}; the last sound checkpoint is step {sound}. Go on from there: jaxlm "
        f"pretrain --fork {fork} --workdir {new} --skip {low}:{high + 1} {slower}"
    )


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
