"""Config and source → the compiled step and the batch of every step of a run.

    run, make = open_run(config, source, checkpoints)
    for train_step, batch in feed(run, log, start, last): …

Next: `loop.py`, which trains; `fits.py`, which measures other settings of a step.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from jaxlm.checkpoints import Checkpoints
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
from jaxlm.train.log import Log
from jaxlm.train.optim import make_optimizer
from jaxlm.train.source import BatchStream, TrainingSource
from jaxlm.train.state import TrainState, abstract_params, abstract_state
from jaxlm.train.step import make_train_step

_SAMPLE = 64  # steps of a task among which the largest one is sought


class Run(NamedTuple):
    """What stays the same through all phases."""

    config: RunConfig
    source: TrainingSource
    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # step → learning rate
    abstract: TrainState  # shapes with shardings
    sharding: NamedSharding  # of a batch
    checkpoints: Checkpoints | Any = None


def open_run(
    config: RunConfig, source: TrainingSource, checkpoints: Checkpoints | None = None
) -> tuple[Run, Callable[[], TrainState]]:
    """(a run, a function that initialises its state)."""
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(source.module), source.lr_scales
    )
    with jax.set_mesh(mesh):
        facts = {"seed": config.seed, "zero_carry": source.zero_carry}
        make, abstract = abstract_state(source.module, optimizer, mesh, **facts)
        sharding = batch_sharding(mesh)
    fixed = config, source, mesh, optimizer, schedule
    return Run(*fixed, abstract, sharding, checkpoints), make


def feed(
    run: Run, log: Log, start: int, last: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """(compiled train step, batch) for every step from `start` to `last`."""
    for number, begin, phase in _phases(run.config):
        steps = range(max(start, begin), min(last, phase.until))
        if steps:
            yield from _feed_phase(run, log, _open(run, number, begin, phase), steps)


def _phases(config: RunConfig) -> Iterator[tuple[int, int, Phase]]:
    """(number, first step, phase) of each phase."""
    begin = 0
    for number, phase in enumerate(config.all_phases):
        yield number, begin, phase
        begin = phase.until


class _Opened(NamedTuple):
    """A phase whose batches can be read."""

    stream: BatchStream
    held: Callable[[int], Any]  # rows of a batch → those that this host holds
    read: Callable[[int], tuple[int, Any]]  # step → (rows of its batch, those held)
    train_step: Any  # jitted


def _open(run: Run, number: int, begin: int, phase: Phase) -> _Opened:
    stream = run.source.open_stream(phase, f"train.{number}")
    parts = phase.accumulate * batch_parts(run.sharding.mesh)
    held = functools.cache(functools.partial(local_rows, run.sharding))

    def read(step: int) -> tuple[int, Any]:
        batch = run.config.batch_number(step) - begin
        count = stream.rows(batch) if stream.rows else phase.batch
        # As many as micro-batches and devices divide.
        count = -(-count // parts) * parts
        return count, stream.read(batch, held(count))

    train_step = make_train_step(
        stream.objective,
        run.optimizer,
        run.schedule,
        accumulate=phase.accumulate,
        seed=run.config.seed,
        dropout=stream.dropout,
    )
    # Pinned: XLA may choose other shardings for what the next step takes.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract)
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))
    return _Opened(stream, held, read, jitted)


def _feed_phase(
    run: Run, log: Log, opened: _Opened, steps: range
) -> Iterator[tuple[Callable[..., Any], Any]]:
    stream, threads = opened.stream, run.config.data.threads
    batches = ahead(opened.read, start=steps.start, stop=steps.stop, threads=threads)
    transform = jax.jit(stream.objective.transform, out_shardings=run.sharding)
    compiled: dict[Any, Callable[..., Any]] = {}
    for count, rows in batches:
        shapes = (count, *(array.shape for array in jax.tree.leaves(rows)))
        batch = transform(to_devices(rows, opened.held(count), run.sharding, count))
        if shapes not in compiled:
            what = f"the step for {count} × {stream.length(rows)} tokens"
            with log.compiling(what, tokens=stream.tokens, flops=stream.flops):
                lowered = opened.train_step.lower(run.abstract, batch)
                compiled[shapes] = lowered.compile()
        yield compiled[shapes], batch


def step_bytes(run: Run) -> int:
    """The memory that a step takes on a device, by XLA's count; of the largest phase.

    Steps of a task differ in shape: the largest of its first ones is measured.
    """
    most = 0
    for number, begin, phase in _phases(run.config):
        opened = _open(run, number, begin, phase)
        few = range(begin, min(phase.until, begin + _SAMPLE))
        read = map(opened.read, few if run.config.finetunes else few[:1])
        most = max(most, _bytes(run, opened, read))
    return most


def _bytes(run: Run, opened: _Opened, read: Iterable[tuple[int, Any]]) -> int:
    count, rows = max(read, key=lambda each: each[0] * opened.stream.length(each[1]))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), rows
    )
    with jax.set_mesh(run.mesh):
        batch = jax.tree.map(
            lambda x: x.update(sharding=run.sharding),
            jax.eval_shape(opened.stream.objective.transform, shapes),
        )
        step = opened.train_step.lower(run.abstract, batch).compile()
    found = step.memory_analysis()
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + new + found.temp_size_in_bytes
