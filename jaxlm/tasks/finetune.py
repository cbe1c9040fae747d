"""Files + a pretrained model's config and tokenizer → the work of a fine-tuning run.

    job = open_job(config, tokenizer, splits)     reads, resolves steps, classes, shapes
    train(job.config, work_of(job), workdir, initial=warm(params, job))

Nothing of the loop is here: the same one that pretrains runs it, saves and resumes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import (
    BertConfig,
    ElmoConfig,
    FinetuneConfig,
    GptConfig,
    Phase,
    TaskConfig,
)
from jaxlm.tasks.kinds.choice import choice_task, names_of
from jaxlm.tasks.kinds.classes import class_task, classes_of
from jaxlm.tasks.kinds.spans import span_task
from jaxlm.tasks.kinds.tags import tag_task, tags_of
from jaxlm.tasks.lr_scales import chosen, lr_scales_of
from jaxlm.tasks.model import OWN, TaskModel
from jaxlm.tasks.objective import FIGURES, task_objective
from jaxlm.tasks.predict import scorer
from jaxlm.tasks.read.conll import read_sentences
from jaxlm.tasks.read.data_files import DataFiles, data_sha256, named
from jaxlm.tasks.read.tables import read_table
from jaxlm.tasks.rows import TaskRows
from jaxlm.tasks.streams import task_stream
from jaxlm.tasks.task import Task
from jaxlm.tasks.task_layers import Body, Mixing, mix_figures
from jaxlm.text.tfds import TFDS
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.train.loop import Initial
from jaxlm.train.source import BatchStream, EvaluateFn, TrainingSource
from jaxlm.train.state import abstract_params
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import GPT_FRAME, UserError

_TABLE = "embed/token/table"


class File(NamedTuple):
    """A file of a task, read and encoded."""

    examples: Sequence[Any]
    rows: TaskRows


class Job(NamedTuple):
    """A fine-tuning run with everything read."""

    config: FinetuneConfig  # resolved: classes, steps, warm-up
    problem: Task
    module: TaskModel
    tokenizer: Tokenizer
    train: File
    dev: File | None
    data: dict[str, str]  # for the provenance
    notes: list[str]


def task_of(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """The problem of a config whose classes are known."""
    match config.task.kind:
        case "class" | "number":
            return class_task(config, tokenizer)
        case "choice":
            return choice_task(config, tokenizer)
        case "tokens":
            return tag_task(config, tokenizer)
        case "spans":
            return span_task(config, tokenizer)


def labels_of(task: TaskConfig, path: str) -> tuple[str, ...]:
    """The classes of a task, from its training file unless they are given."""
    if task.labels or task.kind in ("number", "spans"):
        return task.labels
    if task.kind == "tokens":
        sentences = read_sentences(path, labelled=True)
        return tags_of(sentences, path, bio=task.metric == "entity_f1")
    examples = read_table(path, task, labelled=True)
    return names_of(examples) if task.kind == "choice" else classes_of(examples, path)


def module_of(config: FinetuneConfig, problem: Task) -> TaskModel:
    """The trunk with the problem's head, and what stands between."""
    task, mixing, body = config.task, None, None
    if task.mix != "none":
        mixing = Mixing(task.layers, task.normalise, output=task.mix == "both")
    if task.body == "bilstm":
        body = Body(task.width, task.depth)
    module = TaskModel(
        config.model,
        problem.outputs,
        problem.pooling,
        dtype=jnp.dtype(config.precision),
        remat=config.remat,
        join=problem.join,
        mixing=mixing,
        body=body,
        head_std=task.head_std,
        dropout=None if task.dropout < 0 else task.dropout,
    )
    if not task.freeze:
        return module
    shapes = abstract_params(module)
    frozen = chosen(task.freeze, shapes, "freeze")
    trunk = {path for path, _ in leaves(shapes) if path.split("/")[0] not in OWN}
    return module.clone(frozen=trunk <= frozen)


def open_job(config: FinetuneConfig, tokenizer: Tokenizer, splits: DataFiles) -> Job:
    """Read the files of a task and resolve what follows from them.

    Args:
        config: of the run, with the model that is fine-tuned.
        tokenizer: of that model.
        splits: its files.

    Raises:
        UserError: a file or the model will not do; a file's fault with its row.
    """
    config = _with_model(config, tokenizer)
    task = config.task
    if splits.train.startswith(TFDS) and task.kind in ("tokens", "spans"):
        raise UserError(
            f"{splits.train}: of TFDS datasets classes, numbers and choices are read; "
            f"task.kind = {task.kind} takes a file"
        )
    task = dataclasses.replace(task, labels=labels_of(task, splits.train))
    if task.kind == "class" and task.metric == "f1" and len(task.labels) != 2:
        raise UserError(
            f"task.metric = f1 is of the second of two classes, {splits.train} has "
            f"{len(task.labels)}: pass --task.metric macro_f1 or accuracy"
        )
    config = dataclasses.replace(config, task=task)
    problem = task_of(config, tokenizer)
    train = _read(problem, splits.train, limit=task.limit)
    dev = _read(problem, splits.dev) if splits.dev else None
    if dev and task.kind == "number" and len(np.unique(dev.rows.labels)) < 2:
        raise UserError(f"{splits.dev}: all its numbers are equal, which tells nothing")
    config = _with_steps(config, train.rows, dev is not None)
    notes = [
        f"{name} {path}: {len(file.examples):,} examples in {len(file.rows.tokens):,} "
        f"rows of up to {file.rows.lengths.max()} tokens"
        for name, path, file in (
            ("train", splits.train, train),
            ("dev", splits.dev, dev),
        )
        if file
    ]
    for file in (train, dev) if dev else (train,):
        notes += file.rows.notes
    data = {
        "data": named(splits.train),
        "dev": named(splits.dev),
        "data_sha256": data_sha256(splits),
        "tokenizer_sha256": tokenizer.sha256,
    }
    module = module_of(config, problem)
    chosen(task.fresh, abstract_params(module), "fresh")
    return Job(config, problem, module, tokenizer, train, dev, data, notes)


def _with_model(config: FinetuneConfig, tokenizer: Tokenizer) -> FinetuneConfig:
    """With what the task needs of the model.

    Raises:
        UserError: the model does not have it.
    """
    model, task = config.model, config.task
    if config.phases:
        raise UserError("a fine-tuning run has one phase: drop phases")
    pooled = "none" if task.kind in ("tokens", "spans") else task.pooling
    if task.lm_weight and not isinstance(model, GptConfig):
        raise UserError(
            f"--init {config.init} is no GPT, whose loss of next tokens task.lm_weight "
            "adds: pass --task.lm_weight 0"
        )
    match model:
        case BertConfig():
            if pooled == "pooler" and not model.nsp:
                raise UserError(
                    f"--init {config.init} has no pooler, it was trained without next "
                    "sentences: pass --task.pooling cls or mean"
                )
            # Without a pooler that nothing would train.
            model = dataclasses.replace(model, nsp=pooled == "pooler")
        case ElmoConfig():
            if task.kind == "spans":
                raise UserError(
                    f"--init {config.init} is an ELMo: task.kind = spans needs a BERT"
                )
            if pooled in ("pooler", "cls"):
                raise UserError(
                    f"--init {config.init} is an ELMo, which has no {pooled}: pass "
                    "--task.pooling max, mean or attention"
                )
        case GptConfig():
            if pooled == "none":
                raise UserError(
                    f"--init {config.init} is a GPT, whose tokens see nothing of what "
                    f"comes after them: task.kind = {task.kind} needs a BERT"
                )
            if pooled in ("pooler", "cls"):
                raise UserError(
                    f"--init {config.init} is a GPT, which has no {pooled}: pass "
                    "--task.pooling last"
                )
            size = tokenizer.vocab_size + len(GPT_FRAME)
            model = dataclasses.replace(model, vocab_size=size)
    layers = _layers_of(task, model.num_layers + 1, config.init)
    task = dataclasses.replace(task, layers=layers)
    return dataclasses.replace(config, model=model, task=task)


def _layers_of(task: TaskConfig, count: int, init: str) -> tuple[int, ...]:
    """The numbers of the layers that are mixed, none of them negative."""
    numbers = tuple(n % count for n in task.layers)
    there = all(-count <= n < count for n in task.layers)
    if not there or len(set(numbers)) < len(numbers):
        raise UserError(
            f"task.layers = {' '.join(map(str, task.layers))} are not different ones "
            f"of the {count} layers of --init {init}, 0 (embedding) to {count - 1}"
        )
    return numbers


def _with_steps(config: FinetuneConfig, rows: TaskRows, dev: bool) -> FinetuneConfig:
    """Epochs as steps: run_classifier.py's int(examples / batch · epochs)."""
    task, count = config.task, len(rows.lengths)
    steps = int(count / config.batch * task.epochs) if task.epochs else config.steps
    if steps < 1:
        raise UserError(
            f"{count} rows / --batch {config.batch} × {task.epochs} epochs are less "
            "than one step: pass a smaller --batch or --steps N --task.epochs 0"
        )
    a_pass = -(-count // config.batch)
    every = 0
    if dev and task.evaluations:
        every = max(1, round(a_pass / task.evaluations))
    # One step at least where there is any: the first rate is 0, as in both releases.
    warmup = max(int(steps * task.warmup), int(task.warmup > 0))
    optim = dataclasses.replace(config.optim, warmup=warmup)
    return dataclasses.replace(config, steps=steps, optim=optim, eval_every=every)


def _read(problem: Task, path: str, *, limit: int = 0) -> File:
    examples = problem.read(path, True)[: limit or None]
    return File(examples, problem.encode(examples, True))


def work_of(job: Job) -> TrainingSource:
    """What the loop needs of a fine-tuning run."""
    config, task = job.config, job.config.task
    shapes = abstract_params(job.module)
    shares = lr_scales_of(config.task, config.model.num_layers, shapes)

    def open_stream(phase: Phase, stream: str) -> BatchStream:
        objective = task_objective(
            job.module,
            job.problem,
            shares,
            lm_weight=task.lm_weight,
            penalty=task.penalty,
        )
        rows = job.train.rows
        return task_stream(config, job.module, objective, rows, phase, stream)

    def evaluation(sharding: NamedSharding) -> EvaluateFn | str:
        if job.dev is None:
            return "no dev file, the newest checkpoint is the model; see --dev"
        examples, rows = job.dev
        batch = config.batch // config.accumulate
        scores = scorer(config, job.module, sharding, batch=batch)

        def evaluate(params: Any) -> dict[str, float]:
            found = job.problem.figures(examples, rows, scores(params, rows))
            return {**found, **mix_figures(params, task.layers)}

        return evaluate

    return TrainingSource(
        job.module,
        open_stream,
        evaluation,
        FIGURES,
        best=task.metric,
        patience=task.patience,
        lr_scales=shares,
    )


def warm(params: Any, job: Job) -> Initial:
    """Start from a pretrained model's parameters; what the task lacks is left behind.

    A GPT's table keeps its rows, those of the new tokens come behind them.

    Raises:
        UserError: a parameter has another shape.
    """
    init, decoder = job.config.init, isinstance(job.config.model, GptConfig)
    known = job.tokenizer.vocab_size

    def parameters(abstract: Any, random: Any) -> tuple[Any, list[str]]:
        found, shapes = dict(leaves(params)), dict(leaves(abstract))
        fresh = chosen(job.config.task.fresh, abstract, "fresh")
        found = {path: leaf for path, leaf in found.items() if path not in fresh}
        for path, wanted in shapes.items():
            grows = decoder and path == _TABLE
            if path in found and found[path].shape != wanted.shape and not grows:
                raise UserError(
                    f"--init {init}: {path} is {list(found[path].shape)}, this config "
                    f"has {list(wanted.shape)}"
                )
        new = [path for path in shapes if path not in found]
        if decoder:
            new.append(f"rows of {_TABLE} for {', '.join(GPT_FRAME)}")
        unused = sorted({path.split("/")[0] for path in found if path not in shapes})
        notes = [f"parameters of {init}; new: {', '.join(new)}"]
        if unused:
            notes.append(f"not used: {', '.join(unused)}")

        def start(path: str, leaf: Any, wanted: Any) -> Any:
            if path not in found:
                mine = leaf
            elif decoder and path == _TABLE:
                mine = leaf.at[:known].set(np.asarray(found[path])[:known])
            else:
                # A copy: the steps take what they are given, other seeds need it too.
                # From the host, for a run's lie on one device and these on a mesh.
                mine = np.array(found[path])
            return jax.device_put(mine, wanted.sharding)

        return map_with_path(start, random, abstract), notes

    return parameters
