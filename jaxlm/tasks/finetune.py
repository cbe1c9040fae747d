"""Files, a pretrained model and its tokenizer → a fine-tuning run for the loop.

    run = open_run(config, tokenizer, files)      reads and encodes the files
    train(run.config, run.source(), workdir, initial=pretrained)

The loop of pretraining also trains, saves and resumes this run.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import FinetuneConfig, Phase
from jaxlm.families import family_of
from jaxlm.objectives.objective import Objective
from jaxlm.sharding import local_rows, replicated, to_devices
from jaxlm.tasks import batches
from jaxlm.tasks.classes import Choice, Classes, Numbers
from jaxlm.tasks.data_files import DataFiles
from jaxlm.tasks.model import OWN, PACKED, TaskModel, mix_figures
from jaxlm.tasks.objective import FIGURES, lr_scales_of, select, task_objective
from jaxlm.tasks.spans import Spans
from jaxlm.tasks.tables import width_notes, width_of
from jaxlm.tasks.tags import Tags
from jaxlm.tasks.task import NONE, File, Scores, Task, TaskRows
from jaxlm.text.sources import TFDS, Digests
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.train.source import BatchStream, EvaluateFn, TrainingSource
from jaxlm.train.state import NewParams, abstract_params
from jaxlm.tree import leaves
from jaxlm.types import UserError, plural
from jaxlm.xla import xla_options

KINDS: dict[str, type[Task]] = {
    "class": Classes,
    "number": Numbers,
    "choice": Choice,
    "tokens": Tags,
    "spans": Spans,
}
_TABLE = "embed/token/table"


@dataclass(frozen=True)
class FinetuneRun:
    """A fine-tuning run with its files in memory."""

    config: FinetuneConfig  # resolved: labels, steps, evaluations
    task: Task
    module: TaskModel
    train: File
    dev: File | None
    data: dict[str, str]  # for the provenance
    notes: list[str]

    def source(self) -> TrainingSource:
        """The source that the training loop reads."""
        config, task = self.config, self.config.task
        shapes = abstract_params(self.module)
        lr_scales = lr_scales_of(task, config.model.num_layers, shapes)
        # Tokens that the task adds to the vocabulary get new rows of the table.
        added = len(family_of(config.model).task_tokens)
        grows = {_TABLE: config.model.vocab_size - added} if added else {}

        def open_stream(phase: Phase, stream: str) -> BatchStream:
            objective = task_objective(self.module, self.task, lr_scales)
            return self._stream(objective, phase, stream)

        def evaluation(sharding: NamedSharding) -> EvaluateFn | str:
            if self.dev is None:
                return "no dev file, the newest checkpoint is the model; see --dev"
            dev = self.dev
            batch = config.batch // config.accumulate
            scores = scorer(config, self.module, sharding, batch=batch)

            def evaluate(params: Any) -> dict[str, float]:
                found = self.task.figures(dev, scores(params, dev.rows))
                return {**found, **mix_figures(params, task.layers)}

            return evaluate

        return TrainingSource(
            self.module,
            open_stream,
            evaluation,
            FIGURES,
            best=task.metric,
            patience=task.patience,
            new=NewParams(select(task.fresh, shapes, "fresh"), grows),
            lr_scales=lr_scales,
            digests=self.data,
            rebuilt=self._rebuilt,
        )

    def _rebuilt(self, config: Any) -> TrainingSource:
        module = module_of(config, self.task)
        return dataclasses.replace(self, config=config, module=module).source()

    def _stream(self, objective: Objective, phase: Phase, stream: str) -> BatchStream:
        """The batches of a phase, packed if the model and the task allow it."""
        config, module, rows = self.config, self.module, self.train.rows
        lengths, fields = rows.lengths, config.task
        packs = fields.pack and family_of(config.model).packs and not rows.group
        packs = packs and module.pooling in PACKED and fields.body == "none"
        if packs:
            padded = np.full(len(lengths), lengths.max())
        else:
            padded = batches.bucket_lengths(lengths, fields.buckets, phase.length)
        index, widths = batches.shuffled(
            padded, phase.batch, phase.until, seed=config.seed, stream=stream
        )
        counts = np.full(len(index), phase.batch * max(1, rows.group))
        if packs:
            width, counts = batches.choose_packing(
                lengths, index, widest=config.model.max_length, cost=module.row_flops
            )
            widths = np.full(len(index), width)

        def read(step: int, local: np.ndarray) -> batches.TaskBatch:
            width = int(widths[step])
            if packs:
                return batches.packed_batch(rows, index[step], width, local)
            return batches.padded_batch(rows, index[step][local], width)

        flops = np.array([module.row_flops(w) for w in widths.tolist()], np.float64)
        return BatchStream(
            objective,
            read,
            length=lambda batch: batch.mask.shape[-1],
            tokens=float(np.mean(counts * widths)),
            flops=float(np.mean(counts * flops)),
            dropout=config.drops,
            rows=(lambda step: int(counts[step])) if packs else None,
        )


def task_of(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """The task of a config."""
    return KINDS[config.task.kind](config, tokenizer)


def module_of(config: FinetuneConfig, task: Task) -> TaskModel:
    """The encoder with the task's layers and head."""
    fields, dtype = config.task, jnp.dtype(config.precision)
    pooling = "none" if task.by_token else fields.pooling
    join = "choose" if task.compete else "add" if fields.both_orders else ""
    how = dtype, config.remat, config.attention
    module = TaskModel(config.model, fields, task.outputs, pooling, join, *how)
    if not fields.freeze:
        return module
    shapes = abstract_params(module)
    frozen = select(fields.freeze, shapes, "freeze")
    encoder = {path for path, _ in leaves(shapes) if path.split("/")[0] not in OWN}
    return module.clone(frozen=encoder <= frozen)


def open_run(
    config: FinetuneConfig,
    tokenizer: Tokenizer,
    files: DataFiles,
    dev_columns: Mapping[str, Any] | None = None,
) -> FinetuneRun:
    """A run on a task's files, read once; `config.model` is the pretrained model.

    `dev_columns` are fields of `config.task` that differ for the dev file.
    """
    config = _with_model(config, tokenizer, files)
    task = task_of(config, tokenizer)
    digests: Digests = {}
    examples = task.read(files.train, True, digests)
    width = width_of(examples)
    labels = task.labels or task.labels_of(examples, files.train)
    task = task.with_fields(labels=labels)
    train = task.file(files.train, examples[: config.task.limit or None], True)
    dev = None
    if files.dev:
        dev = task.with_columns(dev_columns or {}).open(files.dev, True, digests)
    for path, file in zip(files, (train, dev), strict=True):
        if file and config.task.kind == "number" and np.ptp(file.rows.labels) == 0:
            raise UserError(f"{path}: all its numbers are equal")
    config = _with_steps(task.config, len(train.rows.lengths), dev is not None)
    module = module_of(config, task)
    select(config.task.fresh, abstract_params(module), "fresh")
    data = files.provenance(digests, dev_columns)
    data |= {"tokenizer_sha256": tokenizer.sha256, "columns": str(width)}
    read = {f"train {files.train}": train} | ({f"dev {files.dev}": dev} if dev else {})
    notes = [
        f"{name}: {plural(len(file.examples), 'example')} in "
        f"{plural(len(file.rows.tokens), 'row')} of up to "
        f"{file.rows.lengths.max()} tokens"
        for name, file in read.items()
    ]
    notes += [note for file in read.values() for note in file.rows.notes]
    if dev and not dev_columns:
        notes += width_notes(files.dev, dev.examples, width)
    if files.dev == files.train:
        notes.append(f"{files.dev} is both the training file and the dev file")
    return FinetuneRun(config, task, module, train, dev, data, notes)


def _with_model(
    config: FinetuneConfig, tokenizer: Tokenizer, files: DataFiles
) -> FinetuneConfig:
    """The config with the task's encoder as its model; UserError if it does not fit."""
    for mistake in _misfits(config, files):
        raise UserError(mistake)
    model, task = config.model, config.task
    # Without a pooler that would not be trained.
    pooler = not KINDS[task.kind].by_token and task.pooling == "pooler"
    size = tokenizer.vocab_size
    try:
        model = family_of(model).for_task(model, pooler=pooler, vocab_size=size)
    except UserError as error:
        raise UserError(f"--init {config.init} {error}") from None
    count = model.num_layers + 1
    task = dataclasses.replace(task, layers=tuple(n % count for n in task.layers))
    return dataclasses.replace(config, model=model, task=task)


def _misfits(config: FinetuneConfig, files: DataFiles) -> Iterator[str]:
    """Why the model that the run starts from cannot learn the task from the files."""
    task, family = config.task, family_of(config.model)
    by_token = KINDS[task.kind].by_token
    this = f"--init {config.init} is {family.article}"
    if not by_token and task.pooling in ("pooler", "cls") and not family.has_cls:
        poolings = "max, mean or attention" if family.bidirectional else "last"
        lacks = f"{this}, which has no {task.pooling}"
        yield f"{lacks}: pass --task.pooling {poolings}"
    # Tokens that see the whole text, and for spans [CLS], which stands for no answer.
    scores_tokens = family.has_cls if task.kind == "spans" else family.bidirectional
    if by_token and not scores_tokens:
        yield f"{this}: task.kind = {task.kind} needs a BERT"
    if task.lm_weight and family.bidirectional:
        added = "task.lm_weight adds the next-token loss of a GPT"
        yield f"{this}, and {added}: pass --task.lm_weight 0"
    if by_token and files.train.startswith(TFDS):
        yield f"{files.train}: task.kind = {task.kind} takes a file, no dataset"
    if config.phases:
        yield "a fine-tuning run has one phase: drop phases"
    last = config.model.num_layers
    layers = {n % (last + 1) for n in task.layers if -last - 1 <= n <= last}
    if len(layers) < len(task.layers):
        these = f"task.layers = {' '.join(map(str, task.layers))}"
        known = f"--init {config.init}, from 0 (embedding) to {last}"
        yield f"{these}: pass different layers of {known}"


def _with_steps(config: FinetuneConfig, count: int, dev: bool) -> FinetuneConfig:
    """The config with epochs as steps, int(examples / batch · epochs) as in BERT."""
    epochs, every = config.task.epochs, config.eval_every
    steps = int(count / config.batch * epochs)
    if steps < 1:
        this = f"{count} rows / --batch {config.batch} × {epochs} epochs"
        remedy = "pass a smaller --batch or more --task.epochs"
        raise UserError(f"{this} is less than one step: {remedy}")
    if not dev:
        every = 0
    elif 0 < every <= 1:  # of a pass
        every = max(1, round(-(-count // config.batch) * every))
    return dataclasses.replace(config, steps=steps, eval_every=every)


def scorer(
    config: FinetuneConfig, module: TaskModel, sharding: NamedSharding, *, batch: int
) -> Callable[[Any, TaskRows], Scores]:
    """A function (parameters, rows) → scores of each row, without dropout."""

    def apply(params, each):
        inputs = each.tokens, each.token_types, each.mask
        return module.apply({"params": params}, *inputs)

    # Whole on every device, so that every host can read the scores.
    how: Any = {"compiler_options": xla_options(config)}
    apply = jax.jit(apply, out_shardings=replicated(sharding.mesh), **how)
    local = local_rows(sharding, batch)

    def scores(params: Any, rows: TaskRows) -> Scores:
        lengths = rows.lengths
        plan = batches.one_pass(
            batches.bucket_lengths(lengths, config.task.buckets, config.length), batch
        )
        out: list[Any] = [None] * len(lengths)
        for index, length in zip(plan.index, plan.lengths.tolist(), strict=True):
            each = batches.padded_batch(rows, index[local], length)
            found = np.asarray(apply(params, to_devices(each, local, sharding, batch)))
            for i, score in zip(index, found, strict=True):
                if i != NONE:
                    out[i] = score[: lengths[i]] if score.ndim == 2 else score
        return out

    return scores
