"""A fine-tuned run → figures on another file, or answers written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import FinetuneConfig, MeshConfig
from jaxlm.families import family_of
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.tasks.finetune import File, module_of, task_of
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.predict import scorer
from jaxlm.tasks.read.tables import Example
from jaxlm.tasks.rows import batch_of, encode
from jaxlm.tasks.seeds import run_of
from jaxlm.tasks.task import Scores, Task
from jaxlm.tasks.task_layers import mix_figures
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.best_checkpoint import restore_best
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError


class Finetuned(NamedTuple):
    """A fine-tuned model; `params` are the best of its run."""

    directory: Path  # of the run
    config: FinetuneConfig
    problem: Task
    module: TaskModel
    params: Any
    tokenizer: Tokenizer
    step: int


def open_finetuned(
    directory: str | Path, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """The best parameters of a run, on the default device.

    Args:
        directory: of the run; of several seeds the best is taken.
        columns: "text", "pair" or "label" → what another file calls it.

    Raises:
        UserError: it is no fine-tuning run, or has no checkpoint yet.
    """
    workdir = run_of(directory)
    config = read_config(workdir)
    if not isinstance(config, FinetuneConfig):
        raise UserError(
            f"{workdir} is a pretraining run: jaxlm finetune --init it first"
        )
    tokenizer = load_tokenizer(Path(workdir) / "tokenizer")
    module = module_of(config, task_of(config, tokenizer))
    found = restore_best(workdir, abstract_params(module))
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    if "best_f1_threshold" in found.meta:
        bound = found.meta["best_f1_threshold"]
        task = dataclasses.replace(config.task, null_threshold=bound)
        config = dataclasses.replace(config, task=task)
    if columns:
        task = dataclasses.replace(config.task, **columns)
        config = dataclasses.replace(config, task=task)
    problem = task_of(config, tokenizer)
    return Finetuned(
        workdir, config, problem, module, found.state, tokenizer, found.step
    )


def score_file(
    fitted: Finetuned, path: str, *, labelled: bool, batch: int = 32
) -> tuple[File, Scores]:
    """A file of the task's form and the scores of its rows.

    Raises:
        UserError: the file will not do; with its row.
    """
    if batch < 1:
        raise UserError(f"--batch {batch} must be positive")
    examples = fitted.problem.read(path, labelled)
    file = File(examples, fitted.problem.encode(examples, labelled))
    return file, _scores(fitted, file, batch)


def _scores(fitted: Finetuned, file: File, batch: int) -> Scores:
    mesh = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(mesh):
        sharding = batch_sharding(mesh)
        score = scorer(fitted.config, fitted.module, sharding, batch=batch)
        return score(fitted.params, file.rows)


def evaluate_file(
    fitted: Finetuned, path: str, *, batch: int = 32
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Figures on a file with labels, and notes on its rows."""
    (examples, rows), scores = score_file(fitted, path, labelled=True, batch=batch)
    figures = fitted.problem.figures(examples, rows, scores)
    figures |= mix_figures(fitted.params, fitted.config.task.layers)
    return figures, rows.notes


def predict_file(fitted: Finetuned, path: str, out: str, *, batch: int = 32) -> int:
    """Write the answers for a file, whose labels are not read; how many.

    Raises:
        UserError: the file will not do, or there is no directory to write to.
    """
    if not Path(out).parent.is_dir():
        raise UserError(f"--out {out}: no directory {Path(out).parent}")
    if Path(out).is_dir():
        raise UserError(f"--out {out} is a directory")
    file, scores = score_file(fitted, path, labelled=False, batch=batch)
    _write(fitted, file, scores, Path(out))
    return len(file.examples)


def predict_dev(workdir: str | Path, dev: File, *, batch: int) -> Path:
    """Write what the best parameters of a run answer to its dev file, beside them.

    Raises:
        UserError: the answers would not tell of which question they are.
    """
    fitted = open_finetuned(workdir)
    spans = fitted.config.task.kind == "spans"
    out = Path(workdir) / f"predictions.{'json' if spans else 'tsv'}"
    _write(fitted, dev, _scores(fitted, dev, batch), out)
    return out


def _write(fitted: Finetuned, file: File, scores: Scores, out: Path) -> None:
    beside = Path(f"{out}.tmp")
    fitted.problem.write(beside, file.examples, file.rows, scores)
    beside.replace(out)


def sample(
    fitted: Finetuned, texts: Sequence[str]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Rows of the task's form made of any texts, to compare programs on.

    Args:
        fitted: a BERT's or GPT's.
        texts: where the task has two a row takes the next one too, and so on.

    Returns:
        Of each row the arguments of transformers' class by name, as lists, and its
        logits, [Y], or of each token [L, Y].
    """
    config, task = fitted.config, fitted.config.task
    two = bool(task.pair) or task.kind == "spans"
    most = len(task.labels)  # alternatives
    turns = [
        [texts[(i + n) % len(texts)] for n in range(2 + most)]
        for i in range(len(texts))
    ]
    examples = [
        Example(a, b if two else None, None, "", tuple(more)) for a, b, *more in turns
    ]
    family = family_of(config.model)
    frame = family.frame(config.model, fitted.tokenizer, task=True)
    if task.kind == "choice":
        rows = fitted.problem.encode(examples, False)
    else:
        rows = encode(examples, frame, config.length)
    batches, scores = [], []
    for i, length in enumerate(rows.lengths):
        batch = batch_of(rows, np.array([i]), int(length))
        inputs = map(jnp.asarray, (batch.tokens, batch.token_types, batch.mask))
        logits = fitted.module.apply({"params": fitted.params}, *inputs)
        scores.append(np.asarray(logits)[0])
        named = {"input_ids": batch.tokens, "attention_mask": batch.mask.astype(int)}
        if family.bidirectional:
            named["token_type_ids"] = batch.token_types
        elif task.kind == "choice":
            named["mc_token_ids"] = batch.mask.sum(-1) - 1
        batches.append({name: each.tolist() for name, each in named.items()})
    return batches, scores
