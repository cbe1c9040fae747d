"""Fine-tuned runs → figures on another file, answers, and a table of several seeds.

WORKDIR/seed-0  WORKDIR/seed-1 …        each a run directory
"""

import functools
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxlm.checkpoints import Checkpoints, RunFiles, restore_params
from jaxlm.config import FinetuneConfig, MeshConfig
from jaxlm.families import family_of
from jaxlm.files import is_remote, local, place, write_file
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.tasks.batches import padded_batch
from jaxlm.tasks.classes import encode
from jaxlm.tasks.data_files import resolved
from jaxlm.tasks.finetune import module_of, scorer, task_of
from jaxlm.tasks.model import TaskModel, mix_figures
from jaxlm.tasks.tables import Example, width_notes
from jaxlm.tasks.task import File, Scores, Task, TaskRows
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.train.screen import shown
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import provenance, read_config
from jaxlm.types import UserError


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model with the best parameters of its run."""

    directory: epath.Path  # of the run
    task: Task
    module: TaskModel
    params: Any
    step: int
    width: int = 0  # columns of the training file, where they have numbers

    def __str__(self) -> str:
        return f"{self.directory} at step {self.step}"

    @property
    def config(self) -> FinetuneConfig:
        """The run's config, with the best threshold and the columns that were given."""
        return self.task.config

    def scores(self, file: File, *, batch: int) -> Scores:
        """The scores of the rows of a file."""
        mesh = make_mesh(MeshConfig(data=1))
        with jax.set_mesh(mesh):
            if batch not in self._scorers:
                how = self.config, self.module, batch_sharding(mesh)
                self._scorers[batch] = scorer(*how, batch=batch)
            return self._scorers[batch](self.params, file.rows)

    @functools.cached_property
    def _scorers(self) -> dict[int, Callable[[Any, TaskRows], Scores]]:
        """Compiled once for all files: rows at a time → a function."""
        return {}

    def evaluate(
        self, path: str, *, batch: int = 32
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Figures on a labelled file, and notes on its rows."""
        file = self.task.open(path, True)
        scores = self.scores(file, batch=batch)
        figures = self.task.figures(file, scores)
        figures |= mix_figures(self.params, self.config.task.layers)
        return figures, self._notes(path, file)

    def predict(
        self, path: str, out: str, *, batch: int = 32
    ) -> tuple[int, tuple[str, ...]]:
        """Write the answers for a file, labelled or not; their number, and notes."""
        there = place(out)
        if not is_remote(out) and not there.parent.is_dir():
            raise UserError(f"--out {out}: no directory {there.parent}")
        if there.is_dir():
            raise UserError(f"--out {out} is a directory")
        if resolved(out) == resolved(path):
            raise UserError(f"--out {out} is the file of --data: name another")
        file = self.task.open(path, False)
        self.write(file, there, batch=batch)
        return len(file.examples), self._notes(path, file)

    def _notes(self, path: str, file: File) -> tuple[str, ...]:
        return (*width_notes(path, file.examples, self.width), *file.rows.notes)

    def write(self, file: File, out: os.PathLike, *, batch: int) -> None:
        """Write the answers for a file, whole or not at all."""
        text = self.task.output(file, self.scores(file, batch=batch))
        write_file(out, text)


def open_finetuned(
    directory: str | os.PathLike, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """The model of a run with its best parameters; of several seeds, the best seed's.

    `columns` are fields of `TaskConfig` that name the columns of another file.
    """
    workdir = best_seed(directory)
    config = read_config(workdir)
    if not isinstance(config, FinetuneConfig):
        raise UserError(
            f"{workdir} is a pretraining run: start from it with jaxlm finetune --init"
        )
    tokenizer = load_tokenizer(local(workdir / "tokenizer"))
    task = task_of(config, tokenizer)
    module = module_of(config, task)
    run = RunFiles(config, {"tokenizer_sha256": tokenizer.sha256})
    found = restore_params(workdir, abstract_params(module), run=run)
    if "best_f1_threshold" in found.meta:
        threshold = found.meta["best_f1_threshold"]
        task = task.with_fields(null_threshold=threshold)
    task = task.with_columns(columns or {})
    width = 0 if columns else int((provenance(workdir) or [{}])[-1].get("columns", 0))
    return Finetuned(workdir, task, module, found.state, found.step, width)


def predict_dev(workdir: str, dev: File, *, batch: int) -> epath.Path:
    """Write a run's answers for its dev file to its directory; returns the path."""
    finetuned = open_finetuned(workdir)
    out = place(workdir) / f"predictions.{finetuned.task.suffix}"
    finetuned.write(dev, out, batch=batch)
    return out


def sample(
    finetuned: Finetuned, texts: Sequence[str]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """(arguments of transformers' class, our logits [Y] or [L, Y]) for sample rows.

    Each text gives a row; in a task of two or more texts, with the texts after it.
    """
    config, fields, task = finetuned.config, finetuned.config.task, finetuned.task
    family = family_of(config.model)
    two = bool(fields.pair) or fields.kind == "spans"
    examples = []
    for i in range(len(texts)):
        a, b, *more = (texts[(i + n) % len(texts)] for n in range(2 + len(task.labels)))
        examples.append(Example(a, b if two else None, None, "", tuple(more)))
    if fields.kind == "choice":
        rows = task.encode(examples, False)
    else:
        rows = encode(examples, task.frame, config.length)
    batches = []
    for i, length in enumerate(rows.lengths.tolist()):
        batch = padded_batch(rows, np.array([i]), length)
        named = {"input_ids": batch.tokens, "attention_mask": batch.mask.astype(int)}
        if getattr(config.model, "num_token_types", 0):
            named["token_type_ids"] = batch.token_types
        elif fields.kind == "choice" and not family.bidirectional:
            named["mc_token_ids"] = batch.mask.sum(-1) - 1
        batches.append({name: each.tolist() for name, each in named.items()})
    return batches, finetuned.scores(File(examples, rows), batch=1)


def best_figures(workdir: str | os.PathLike) -> tuple[int, dict[str, float]] | None:
    """(step, dev figures) of a run's best checkpoint; None if there is none."""
    found = Checkpoints(f"{workdir}/best").stored()
    return (found.step, found.meta) if found else None


def runs_of(directory: str | os.PathLike) -> list[epath.Path]:
    """The runs of several seeds in a directory, in the order of their seeds."""
    found = place(directory).glob("seed-[0-9]*/config.json")
    return sorted((p.parent for p in found), key=lambda run: (len(run.name), run.name))


def best_seed(directory: str | os.PathLike) -> epath.Path:
    """The directory if it is a run; else the best of its seeds on the dev file."""
    here, seeds = place(directory), runs_of(directory)
    if (here / "config.json").is_file() or not seeds:
        return here
    config = read_config(seeds[0])
    if not isinstance(config, FinetuneConfig):
        return here
    best = {seed: each[1] for seed in seeds if (each := best_figures(seed))}
    if not best:
        names = ", ".join(map(str, seeds[:5]))
        raise UserError(f"{here} has several seeds, none was evaluated: name {names}")
    return max(best, key=lambda seed: best[seed][config.task.metric])


def seed_table(figures: Mapping[int, Mapping[str, float]]) -> list[str]:
    """A line for each figure: a column per seed, mean ± sample deviation (n - 1)."""
    names = list(next(iter(figures.values())))
    wide = max(map(len, names))
    head = f"{'':<{wide}}  " + "  ".join(f"{f'seed {s}':>9}" for s in figures)
    lines = [f"{head}  {'mean':>9} ± sd"]
    for name in names:
        values = [each[name] for each in figures.values()]
        mean = statistics.fmean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells = "  ".join(f"{shown(name, value):>9}" for value in values)
        both = f"{shown(name, mean):>9} ± {shown(name, spread)}"
        lines.append(f"{name:<{wide}}  {cells}  {both}")
    return lines
