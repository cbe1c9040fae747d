"""Fine-tuned runs → figures on another file, answers, and a table of several seeds.

WORKDIR/seed-0  WORKDIR/seed-1 …        each a run directory
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.checkpoints import Checkpoints
from jaxlm.config import FinetuneConfig, MeshConfig
from jaxlm.families import family_of
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.tasks.batches import padded_batch
from jaxlm.tasks.finetune import module_of, scorer, task_of
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.read.tables import Example
from jaxlm.tasks.rows import encode
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.tasks.task_layers import mix_figures
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.train.best_checkpoint import restore_best
from jaxlm.train.screen import shown
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model with the best parameters of its run."""

    directory: Path  # of the run
    task: Task
    module: TaskModel
    params: Any
    step: int

    @property
    def config(self) -> FinetuneConfig:
        """The run's configuration, with the threshold and columns in force."""
        return self.task.config

    def scores(self, file: File, *, batch: int) -> Scores:
        """The scores of the rows of a file."""
        mesh = make_mesh(MeshConfig(data=1))
        with jax.set_mesh(mesh):
            sharding = batch_sharding(mesh)
            score = scorer(self.config, self.module, sharding, batch=batch)
            return score(self.params, file.rows)

    def evaluate(
        self, path: str, *, batch: int = 32
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Figures on a labelled file, and notes on its rows.

        Raises:
            UserError: the file does not fit the task.
        """
        _check_batch(batch)
        file = self.task.open(path, labelled=True)
        scores = self.scores(file, batch=batch)
        figures = self.task.figures(file, scores)
        figures |= mix_figures(self.params, self.config.task.layers)
        return figures, file.rows.notes

    def predict(self, path: str, out: str, *, batch: int = 32) -> int:
        """Write the answers for a file, labelled or not; their number.

        Raises:
            UserError: the file does not fit the task, or `out` cannot be written.
        """
        if not Path(out).parent.is_dir():
            raise UserError(f"--out {out}: no directory {Path(out).parent}")
        if Path(out).is_dir():
            raise UserError(f"--out {out} is a directory")
        _check_batch(batch)
        file = self.task.open(path, labelled=False)
        self.write(file, Path(out), batch=batch)
        return len(file.examples)

    def write(self, file: File, out: Path, *, batch: int) -> None:
        """Write the answers for a file, whole or not at all."""
        beside = Path(f"{out}.tmp")
        scores = self.scores(file, batch=batch)
        self.task.write(beside, file, scores)
        beside.replace(out)


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise UserError(f"--batch {batch} must be positive")


def open_finetuned(
    directory: str | Path, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """The best parameters of a run, on the default device.

    Args:
        directory: of the run, or of several seeds, whose best is taken.
        columns: "text", "pair" or "label" → the name of a column in another file.

    Raises:
        UserError: this is no fine-tuning run, or it has no checkpoint yet.
    """
    workdir = best_seed(directory)
    config = read_config(workdir)
    if not isinstance(config, FinetuneConfig):
        raise UserError(
            f"{workdir} is a pretraining run: jaxlm finetune --init it first"
        )
    tokenizer = load_tokenizer(workdir / "tokenizer")
    module = module_of(config, task_of(config, tokenizer))
    found = restore_best(workdir, abstract_params(module))
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    changes = dict(columns or {})
    if "best_f1_threshold" in found.meta:
        changes["null_threshold"] = found.meta["best_f1_threshold"]
    task = dataclasses.replace(config.task, **changes)
    config = dataclasses.replace(config, task=task)
    task = task_of(config, tokenizer)
    return Finetuned(workdir, task, module, found.state, found.step)


def predict_dev(workdir: str | Path, dev: File, *, batch: int) -> Path:
    """Write a run's answers for its dev file beside it.

    Raises:
        UserError: the answers could not be told apart.
    """
    finetuned = open_finetuned(workdir)
    spans = finetuned.config.task.kind == "spans"
    out = Path(workdir) / f"predictions.{'json' if spans else 'tsv'}"
    finetuned.write(dev, out, batch=batch)
    return out


def sample(
    finetuned: Finetuned, texts: Sequence[str]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Inputs and logits for any texts, to compare with transformers.

    Args:
        finetuned: a BERT's or GPT's.
        texts: a task of two texts also reads the next one in each row, and so on.

    Returns:
        For each row the arguments of transformers' class by name, as lists, and the
        logits, [Y] or [L, Y].
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
    batches, scores = [], []
    for i, length in enumerate(rows.lengths):
        batch = padded_batch(rows, np.array([i]), int(length))
        inputs = map(jnp.asarray, (batch.tokens, batch.token_types, batch.mask))
        logits = finetuned.module.apply({"params": finetuned.params}, *inputs)
        scores.append(np.asarray(logits)[0])
        named = {"input_ids": batch.tokens, "attention_mask": batch.mask.astype(int)}
        if family.bidirectional:
            named["token_type_ids"] = batch.token_types
        elif fields.kind == "choice":
            named["mc_token_ids"] = batch.mask.sum(-1) - 1
        batches.append({name: each.tolist() for name, each in named.items()})
    return batches, scores


def best_figures(workdir: str | Path) -> tuple[int, dict[str, float]] | None:
    """(step, figures on the dev file) of a run's best checkpoint, None without one."""
    checkpoints = Checkpoints(f"{workdir}/best")
    steps = checkpoints.steps()
    return (steps[-1], checkpoints.manifest(steps[-1]).meta) if steps else None


def best_seed(directory: str | Path) -> Path:
    """A run directory itself, or among its seeds the best one on the dev file.

    Raises:
        UserError: no seed was evaluated.
    """
    here = Path(directory)
    number_of = {
        path.parent: int(path.parent.name[5:])
        for path in here.glob("seed-*/config.json")
        if path.parent.name[5:].isdecimal()
    }
    seeds = sorted(number_of, key=number_of.__getitem__)
    if (here / "config.json").is_file() or not seeds:
        return here
    config = read_config(seeds[0])
    if not isinstance(config, FinetuneConfig):
        return here
    figures = {seed: best_figures(seed) for seed in seeds}
    known = {
        seed: each[1][config.task.metric] for seed, each in figures.items() if each
    }
    if not known:
        names = ", ".join(map(str, seeds[:5]))
        raise UserError(
            f"{here} has several seeds and none was evaluated: name {names}"
        )
    return max(known, key=known.__getitem__)


def seed_table(figures: Mapping[int, Mapping[str, float]]) -> list[str]:
    """A line a figure, a column a seed, and mean ± sample deviation (n - 1)."""
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
