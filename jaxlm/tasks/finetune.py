"""Files, a pretrained model and its tokenizer → a fine-tuning run for the loop.

    run = open_run(config, tokenizer, files)      reads and encodes the files
    train(run.config, run.source(), workdir, initial=pretrained)

The loop that pretrains also trains, saves and resumes this run.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import FinetuneConfig, Phase
from jaxlm.data.rows import ahead
from jaxlm.families import family_of
from jaxlm.sharding import local_rows, replicated, to_devices
from jaxlm.tasks.batches import bucket_lengths, one_pass, padded_batch, task_stream
from jaxlm.tasks.kinds.choice import Choice
from jaxlm.tasks.kinds.classes import Classes, Numbers
from jaxlm.tasks.kinds.spans import Spans
from jaxlm.tasks.kinds.tags import Tags
from jaxlm.tasks.lr_scales import lr_scales_of, select
from jaxlm.tasks.model import OWN, TaskModel
from jaxlm.tasks.objective import FIGURES, task_objective
from jaxlm.tasks.read.data_files import DataFiles
from jaxlm.tasks.rows import NONE, TaskRows
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.tasks.task_layers import Body, Mixing, mix_figures
from jaxlm.text.sources import TFDS, Digests
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.train.source import BatchStream, EvaluateFn, TrainingSource
from jaxlm.train.state import NewParams, abstract_params
from jaxlm.tree import leaves
from jaxlm.types import UserError

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
        """What the loop trains on."""
        config, task = self.config, self.config.task
        shapes = abstract_params(self.module)
        lr_scales = lr_scales_of(task, config.model.num_layers, shapes)
        # Tokens that the task adds to the vocabulary get new rows of the table.
        added = len(family_of(config.model).task_tokens)
        grows = {_TABLE: config.model.vocab_size - added} if added else {}

        def open_stream(phase: Phase, stream: str) -> BatchStream:
            objective = task_objective(self.module, self.task, lr_scales)
            rows = self.train.rows
            return task_stream(config, self.module, objective, rows, phase, stream)

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
        )


def task_of(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """The task of a config."""
    return KINDS[config.task.kind](config, tokenizer)


def module_of(config: FinetuneConfig, task: Task) -> TaskModel:
    """The encoder with the task's layers and head."""
    fields = config.task
    mixing = Mixing(fields.layers, fields.normalise, output=fields.mix == "both")
    body = Body(fields.width, fields.depth)
    module = TaskModel(
        config.model,
        task.outputs,
        task.pooling,
        dtype=jnp.dtype(config.precision),
        remat=config.remat,
        join=task.join,
        mixing=None if fields.mix == "none" else mixing,
        body=None if fields.body == "none" else body,
        head_std=fields.head_std,
        dropout=None if fields.dropout < 0 else fields.dropout,
    )
    if not fields.freeze:
        return module
    shapes = abstract_params(module)
    frozen = select(fields.freeze, shapes, "freeze")
    encoder = {path for path, _ in leaves(shapes) if path.split("/")[0] not in OWN}
    return module.clone(frozen=encoder <= frozen)


def open_run(
    config: FinetuneConfig, tokenizer: Tokenizer, files: DataFiles
) -> FinetuneRun:
    """A run on the files of a task, each read once.

    Args:
        config: with the model that is fine-tuned, to which the tokenizer belongs.

    Raises:
        UserError: a file or the model does not fit the task.
    """
    config = _with_model(config, tokenizer)
    digests: Digests = {}
    if files.train.startswith(TFDS) and KINDS[config.task.kind].by_token:
        raise UserError(
            f"{files.train}: task.kind = {config.task.kind} takes a file; classes, "
            "numbers and choices may also come from a TFDS dataset"
        )
    task = task_of(config, tokenizer)
    examples = task.read(files.train, True, digests)
    labels = task.labels or task.labels_of(examples, files.train)
    fields = dataclasses.replace(config.task, labels=labels)
    config = dataclasses.replace(config, task=fields)
    if fields.kind == "class" and fields.metric == "f1" and len(labels) != 2:
        raise UserError(
            f"task.metric = f1 needs two classes, {files.train} has {len(labels)}: "
            "pass --task.metric macro_f1 or accuracy"
        )
    task = task_of(config, tokenizer)
    examples = examples[: fields.limit or None]
    train = File(examples, task.encode(examples, True))
    dev = task.open(files.dev, True, digests) if files.dev else None
    if dev and fields.kind == "number" and len(np.unique(dev.rows.labels)) < 2:
        raise UserError(f"{files.dev}: all its numbers are equal")
    config = _with_steps(config, len(train.rows.lengths), dev is not None)
    notes = [
        f"{name} {path}: {len(file.examples):,} examples in {len(file.rows.tokens):,} "
        f"rows of up to {file.rows.lengths.max()} tokens"
        for name, path, file in zip(files._fields, files, (train, dev), strict=True)
        if file
    ]
    notes += [*train.rows.notes, *(dev.rows.notes if dev else ())]
    data = {**files.provenance(digests), "tokenizer_sha256": tokenizer.sha256}
    module = module_of(config, task)
    select(config.task.fresh, abstract_params(module), "fresh")
    return FinetuneRun(config, task, module, train, dev, data, notes)


def _with_model(config: FinetuneConfig, tokenizer: Tokenizer) -> FinetuneConfig:
    """The config with the model that the task trains.

    Raises:
        UserError: the model lacks what the task needs.
    """
    model, task, family = config.model, config.task, family_of(config.model)
    by_token = KINDS[task.kind].by_token
    this = f"--init {config.init} is {family.article}"
    if config.phases:
        raise UserError("a fine-tuning run has one phase: drop phases")
    if task.lm_weight and family.bidirectional:
        raise UserError(
            f"{this}, and task.lm_weight adds the next-token loss of a GPT: pass "
            "--task.lm_weight 0"
        )
    if by_token and not family.bidirectional:
        raise UserError(
            f"{this}, whose tokens attend to earlier tokens only: task.kind = "
            f"{task.kind} needs a BERT"
        )
    if task.kind == "spans" and not family.has_cls:
        raise UserError(f"{this}: task.kind = spans needs a BERT")
    if not by_token and task.pooling in ("pooler", "cls") and not family.has_cls:
        poolings = "max, mean or attention" if family.bidirectional else "last"
        raise UserError(
            f"{this}, which has no {task.pooling}: pass --task.pooling {poolings}"
        )
    # Without a pooler that would not be trained.
    pooler = not by_token and task.pooling == "pooler"
    try:
        model = family.for_task(model, pooler=pooler, vocab_size=tokenizer.vocab_size)
    except UserError as error:
        raise UserError(f"--init {config.init} {error}") from None
    count = model.num_layers + 1
    layers = tuple(n % count for n in task.layers)
    there = all(-count <= n < count for n in task.layers)
    if not there or len(set(layers)) < len(layers):
        raise UserError(
            f"task.layers = {' '.join(map(str, task.layers))}: pass different layers "
            f"of --init {config.init}, from 0 (embedding) to {count - 1}"
        )
    task = dataclasses.replace(task, layers=layers)
    return dataclasses.replace(config, model=model, task=task)


def _with_steps(config: FinetuneConfig, count: int, dev: bool) -> FinetuneConfig:
    """Epochs as steps: run_classifier.py's int(examples / batch · epochs)."""
    epochs, every = config.task.epochs, config.eval_every
    steps = int(count / config.batch * epochs)
    if steps < 1:
        raise UserError(
            f"{count} rows / --batch {config.batch} × {epochs} epochs is less than one "
            "step: pass a smaller --batch or more --task.epochs"
        )
    if not dev:
        every = 0
    elif 0 < every <= 1:  # of a pass
        every = max(1, round(-(-count // config.batch) * every))
    return dataclasses.replace(config, steps=steps, eval_every=every)


def scorer(
    config: FinetuneConfig, module: TaskModel, sharding: NamedSharding, *, batch: int
) -> Callable[[Any, TaskRows], Scores]:
    """(parameters, rows) → scores of each row, without dropout."""

    def apply(params, each):
        inputs = each.tokens, each.token_types, each.mask
        return module.apply({"params": params}, *inputs)

    # Whole on every device, so that every host can read the scores.
    apply = jax.jit(apply, out_shardings=replicated(sharding.mesh))
    local = local_rows(sharding, batch)

    def scores(params: Any, rows: TaskRows) -> Scores:
        lengths = rows.lengths
        padded = bucket_lengths(lengths, config.task.buckets, config.length)
        plan = one_pass(padded, batch)
        feed = ahead(
            lambda step: padded_batch(
                rows, plan.index[step][local], int(plan.lengths[step])
            ),
            start=0,
            stop=len(plan.index),
            threads=2,
        )
        out: list[Any] = [None] * len(lengths)
        for index, each in zip(plan.index, feed, strict=True):
            found = np.asarray(apply(params, to_devices(each, local, sharding, batch)))
            for i, score in zip(index, found, strict=True):
                if i != NONE:
                    out[i] = score[: lengths[i]] if score.ndim == 2 else score
        return out

    return scores
