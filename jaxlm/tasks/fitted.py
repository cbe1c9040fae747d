"""A fine-tuned run → figures on another file, or answers written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxlm.config import FinetuneConfig, MeshConfig
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.tasks.body import mix_figures
from jaxlm.tasks.finetune import File, module_of, problem_of
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.predict import scorer
from jaxlm.tasks.problem import Problem, Scores
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.best import restore_best
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError


class Fitted(NamedTuple):
    """A fine-tuned model; `params` are the best of its run."""

    config: FinetuneConfig
    problem: Problem
    module: TaskModel
    params: Any
    tokenizer: Tokenizer
    step: int


def open_fitted(workdir: str | Path) -> Fitted:
    """The best parameters of a run, on the default device.

    Raises:
        UserError: it is no fine-tuning run, or has no checkpoint yet.
    """
    config = read_config(workdir)
    if not isinstance(config, FinetuneConfig):
        raise UserError(
            f"{workdir} is a pretraining run: jaxlm finetune --init it first"
        )
    tokenizer = load_tokenizer(Path(workdir) / "tokenizer")
    module = module_of(config, problem_of(config, tokenizer))
    found = restore_best(workdir, abstract_params(module))
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    if "best_f1_threshold" in found.meta:
        bound = found.meta["best_f1_threshold"]
        task = dataclasses.replace(config.task, null_threshold=bound)
        config = dataclasses.replace(config, task=task)
    problem = problem_of(config, tokenizer)
    return Fitted(config, problem, module, found.state, tokenizer, found.step)


def score_file(
    fitted: Fitted, path: str, *, labelled: bool, batch: int = 32
) -> tuple[File, Scores]:
    """A file of the task's form and the scores of its rows.

    Raises:
        UserError: the file will not do; with its row.
    """
    examples = fitted.problem.read(path, labelled)
    rows = fitted.problem.encode(examples, labelled)
    mesh = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(mesh):
        sharding = batch_sharding(mesh)
        score = scorer(fitted.config, fitted.module, sharding, batch=batch)
        scores = score(fitted.params, rows)
    return File(examples, rows), scores


def evaluate_file(fitted: Fitted, path: str, *, batch: int = 32) -> dict[str, float]:
    """Figures on a file with labels."""
    (examples, rows), scores = score_file(fitted, path, labelled=True, batch=batch)
    found = fitted.problem.figures(examples, rows, scores)
    return {**found, **mix_figures(fitted.params, fitted.config.task.layers)}


def predict_file(fitted: Fitted, path: str, out: str, *, batch: int = 32) -> int:
    """Write the answers for a file, whose labels are not read; how many.

    Raises:
        UserError: the file will not do, or there is no directory to write to.
    """
    if not Path(out).parent.is_dir():
        raise UserError(f"--out {out}: no directory {Path(out).parent}")
    (examples, rows), scores = score_file(fitted, path, labelled=False, batch=batch)
    beside = Path(f"{out}.tmp")
    fitted.problem.write(beside, examples, rows, scores)
    beside.replace(out)
    return len(examples)
