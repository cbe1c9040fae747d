"""What a run trains on: the compiled step and the batch of every step.

    source = corpus_source(config, corpus)         or a task's, in `jaxlm/tasks`
    run, make = open_run(config, source, checkpoints)
    for train_step, batch in feed(run, log, start, last): …

Next: `loop.py`, which trains; `fits.py`, which measures other settings of a step.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from jaxlm.checkpoints import Checkpoints
from jaxlm.config import Phase, RunConfig
from jaxlm.data.layouts import LAYOUTS, rows_of_zeros
from jaxlm.data.rows import ahead
from jaxlm.evaluation import STREAM, open_evaluation
from jaxlm.families import family_of
from jaxlm.families.samples import suited
from jaxlm.memory import program_bytes
from jaxlm.metrics import Figure
from jaxlm.models.kernels.fused import Call, said
from jaxlm.objectives.objective import Objective
from jaxlm.sharding import (
    batch_parts,
    batch_sharding,
    check_batch,
    local_rows,
    make_mesh,
    replicated,
    to_devices,
)
from jaxlm.text.corpus import Corpus, Manifest
from jaxlm.train.log import Log
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import NewParams, TrainState, abstract_params, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.xla import check_options, xla_options

EvaluateFn = Callable[[Any], dict[str, float]]  # parameters → figures
SampleFn = Callable[[Any], list[dict[str, Any]]]  # parameters → a record a prompt


class BatchStream(NamedTuple):
    """The batches of a phase and their objective.

    `read(step, local)` returns the rows `local` of the batch of a step of the phase, as
    a tree of numpy arrays. It is a pure function, so the step number is the position in
    the data. Batches may differ in shape; each shape is compiled once.
    """

    objective: Objective
    read: Callable[[int, np.ndarray], Any]
    length: Callable[[Any], int]  # rows → tokens in each
    tokens: float  # in a step; the mean if shapes differ
    flops: float  # of the model in a step; the mean if shapes differ
    dropout: bool
    rows: Callable[[int], int] | None = None  # step → rows; None: the phase's batch


class TrainingSource(NamedTuple):
    """A module with its training batches and its evaluation."""

    module: Any  # a Linen module with the `config` of its family and `example()`
    open_stream: Callable[[Phase, str], BatchStream]  # a phase and its name
    evaluation: Callable[[NamedSharding], EvaluateFn | str]  # or why there is none
    figures: tuple[Figure, ...]  # of the evaluation
    # What the model says at each evaluation, or why it says nothing; None: not asked.
    samples: Callable[[NamedSharding], SampleFn | str] | None = None
    zero_carry: Callable[[], Any] = tuple  # the carry before the first batch
    best: str = ""  # figure whose best parameters are kept; empty: none are
    patience: int = 0  # evaluations without a better figure that end the run; 0: never
    new: NewParams | None = None  # what a task adds to the model of `init`
    lr_scales: Any = None  # multiply each parameter's learning rate; None: all 1
    rebuilt: Callable[[RunConfig], Any] | None = None  # the same data, another config
    digests: Mapping[str, str] = MappingProxyType({})  # of text and tokenizer


def corpus_source(
    config: RunConfig, corpus: Corpus | None, prompts: tuple[str, ...] | None = ()
) -> TrainingSource:
    """The source of a pretraining run: a corpus and the objective of the family.

    Without a corpus, rows are zeros: enough to compile the steps of a config. Samples
    are of `prompts`, or of the family's own; None: there are no samples.
    """
    family = family_of(config.model)
    module = family.build(
        config.model,
        dtype=jnp.dtype(config.precision),
        remat=config.remat,
        road=config.attention,
    )

    def open_stream(phase: Phase, stream: str) -> BatchStream:
        manifest = corpus.manifest if corpus else Manifest.empty(config)
        objective = family.objective(config, module, manifest, phase, stream)
        layout = objective.layout
        source = LAYOUTS[layout](config, corpus, phase, stream) if corpus else None

        def read(step: int, local: np.ndarray) -> Any:
            if source is None:
                characters = getattr(config.model, "max_characters", 0)
                return rows_of_zeros(layout, len(local), phase.length, characters)
            return source.read(step * phase.batch + local)

        return BatchStream(
            objective,
            read,
            lambda rows: phase.length,
            tokens=float(phase.batch * phase.length),
            flops=float(family.train_flops(config, phase)),
            dropout=config.model.dropout > 0,
        )

    def evaluation(sharding: jax.sharding.Sharding) -> EvaluateFn | str:
        """The evaluation on held-out documents, in rows of the first phase's shape."""
        if corpus is None:
            return "there is no text"
        phase = config.all_phases[0]
        held_out = int(np.sum(corpus.documents[:, 2] == 1))
        objective = family.objective(config, module, corpus.manifest, phase, STREAM)
        needed = LAYOUTS[objective.layout].documents_needed
        if held_out < needed:
            remedy = "evaluate another text, or prepare with a larger --holdout"
            return f"{held_out} held-out documents, {needed} needed; {remedy}"
        phase = dataclasses.replace(phase, batch=phase.batch // phase.accumulate)
        options: Any = {"split": 1, "limit": config.eval_rows}
        return open_evaluation(config, module, corpus, phase, sharding, **options)

    def samples(sharding: NamedSharding) -> SampleFn | str:
        assert corpus is not None and prompts is not None
        chosen = prompts or suited(corpus.tokenizer, family.prompts)
        if not chosen:
            return "the vocabulary spells no shipped prompt; see --samples"
        sampler = family.sampler(config.model, corpus.tokenizer, chosen)
        how: Any = {"out_shardings": replicated(sharding.mesh)}
        compute = jax.jit(sampler.compute, compiler_options=xla_options(config), **how)

        def sample(params: Any) -> list[dict[str, Any]]:
            with jax.default_matmul_precision("float32"):
                return sampler.said(jax.device_get(compute(params)))

        return sample

    return TrainingSource(
        module,
        open_stream,
        evaluation,
        family.figures(config),
        samples if corpus and prompts is not None else None,
        zero_carry=lambda: family.zero_carry(config.model, config.all_phases[0].batch),
        digests=corpus.digests if corpus else {},
        rebuilt=lambda config: corpus_source(config, corpus, prompts),
    )


class Run(NamedTuple):
    """What stays the same through all phases."""

    config: RunConfig
    source: TrainingSource
    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # step → learning rate
    abstract: TrainState  # shapes with shardings
    sharding: NamedSharding  # of a batch
    options: dict[str, Any]  # of XLA's compiler
    checkpoints: Checkpoints | Any = None

    @property
    def seed(self) -> np.ndarray:
        """The seed as an argument of programs, which are compiled once for all."""
        return np.asarray(self.config.seed, np.uint32)


def open_run(
    config: RunConfig,
    source: TrainingSource,
    checkpoints: Checkpoints | None = None,
    devices: Any = None,
) -> tuple[Run, Callable[[], TrainState]]:
    """(a run, a function that initialises its state); `devices` as in `make_mesh`."""
    mesh = make_mesh(config.mesh, devices)
    check_batch(config, mesh)
    check_options(config, mesh)
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(source.module), source.lr_scales
    )
    # Abstract: the devices of a planned machine compute nothing.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        facts = {"seed": config.seed, "zero_carry": source.zero_carry}
        make, abstract = abstract_state(source.module, optimizer, mesh, **facts)
        sharding = batch_sharding(mesh)
        options = xla_options(config, training=True)
    fixed = config, source, mesh, optimizer, schedule
    return Run(*fixed, abstract, sharding, options, checkpoints), make


def feed(
    run: Run, log: Log, start: int, last: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """(compiled train step, batch) for every step from `start` to `last`."""
    for number, begin, phase in phases_of(run.config):
        steps = range(max(start, begin), min(last, phase.until))
        if steps:
            yield from _feed_phase(
                run, log, open_phase(run, number, begin, phase), steps
            )


def phases_of(config: RunConfig) -> Iterator[tuple[int, int, Phase]]:
    """(number, first step, phase) of each phase."""
    begin = 0
    for number, phase in enumerate(config.all_phases):
        yield number, begin, phase
        begin = phase.until


class OpenPhase(NamedTuple):
    """A phase whose batches can be read."""

    stream: BatchStream
    held: Callable[[int], Any]  # rows of a batch → those that this host holds
    read: Callable[[int], tuple[int, Any]]  # step → (rows of its batch, those held)
    train_step: Any  # jitted; see `make_train_step`


def open_phase(run: Run, number: int, begin: int, phase: Phase) -> OpenPhase:
    """Open the batches of a phase that starts at step `begin`, and its train step."""
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
        dropout=stream.dropout,
        bits=run.config.dropout_bits,
    )
    # Pinned: XLA may choose other shardings for what the next step takes.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract)
    facts: Any = {"out_shardings": (shardings, None), "compiler_options": run.options}
    jitted = jax.jit(train_step, donate_argnums=0, **facts)
    return OpenPhase(stream, held, read, jitted)


def _feed_phase(
    run: Run, log: Log, opened: OpenPhase, steps: range
) -> Iterator[tuple[Callable[..., Any], Any]]:
    stream, threads = opened.stream, run.config.data.threads
    batches = ahead(opened.read, start=steps.start, stop=steps.stop, threads=threads)
    transform = jax.jit(stream.objective.transform, out_shardings=run.sharding)
    compiled: dict[Any, Callable[..., Any]] = {}
    dropout = stream.dropout and not getattr(run.source.module, "frozen", False)
    told = ""
    for count, rows in batches:
        shapes = (count, *(array.shape for array in jax.tree.leaves(rows)))
        new = shapes not in compiled
        with log.times.during("compile" if new else "data"):
            batch = transform(to_devices(rows, opened.held(count), run.sharding, count))
        if new:
            length = stream.length(rows)
            line = attention_line(run.config, rows, (count, length), dropout=dropout)
            if line not in ("", told):
                log.say(told := line)
            what = f"the step for {count} × {length} tokens"
            facts = {"tokens": stream.tokens, "flops": stream.flops}
            with log.compiling(what, **facts) as said:
                lowered = opened.train_step.lower(run.abstract, batch, run.seed)
                compiled[shapes] = lowered.compile()
                needed = program_bytes(compiled[shapes], run.mesh)
                said.append(f"it needs {needed / 1e9:.2f} GB of memory")
        yield compiled[shapes], batch


def attention_line(
    config: RunConfig, rows: Any, shape: tuple[int, int], *, dropout: bool
) -> str:
    """The line on which attention a step for `rows` has, rows and tokens of `shape`; ""
    if there is nothing to say."""
    model: Any = config.model
    if model.carries_state:
        return ""
    packed = getattr(rows, "segments", None) is not None
    call = Call(
        (*shape, model.num_heads, model.d_model // model.num_heads),
        config.precision,
        segments=getattr(config.data, "packed", packed),
        other="dropout" if dropout and model.dropout > 0 else "",
    )
    return said(config.attention, call, getattr(model, "window", 0))
