"""One or two texts → a class or a number: cases (a) and (b) of BERT's figure 4.

Devlin et al. 2018; google-research/bert run_classifier.py. Numbers, which that code
does not have, are learnt by squared error, as is usual for STS-B. With both orders, the
vectors of the two rows are added: GPT-1's similarity (Radford et al. 2018, section
3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.metrics import Mean
from jaxlm.objectives.objective import Sums
from jaxlm.tasks.read.tables import Example, read_table
from jaxlm.tasks.rows import TaskRows, encode, encode_groups
from jaxlm.tasks.scoring import class_figures, number_figures
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.text.sources import Digests
from jaxlm.types import UserError


@dataclass(frozen=True)
class Classes(Task):
    """Classification by softmax."""

    def read(self, path: str, labelled: bool, digests: Digests) -> list[Example]:
        """The rows of a table."""
        task = self.config.task
        return read_table(path, task, labelled=labelled, digests=digests)

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """The labels, sorted as numbers if all are whole numbers."""
        labels = {str(each.label) for each in examples}
        if len(labels) < 2:
            raise UserError(f"{path} has one class only: {labels.pop()!r}")
        if len(labels) > 1000:
            raise UserError(
                f"{path} has {len(labels):,} different labels: pass --task.kind number "
                "if they are numbers"
            )
        numeric = all(each.removeprefix("-").isdecimal() for each in labels)
        return tuple(sorted(labels, key=int if numeric else str))

    def encode(self, examples: Sequence[Example], labelled: bool) -> TaskRows:
        """One row an example, or one for each order of two texts."""
        if self.config.task.both_orders:
            groups = [(e, e._replace(text=str(e.pair), pair=e.text)) for e in examples]
            rows = encode_groups(groups, self.frame, self.config.length, 2)
        else:
            rows = encode(examples, self.frame, self.config.length)
        return rows._replace(labels=self.numbers(examples)) if labelled else rows

    def numbers(self, examples: Sequence[Example]) -> np.ndarray:
        """The labels as numbers."""
        number_of = {label: i for i, label in enumerate(self.labels)}
        for each in examples:
            if each.label not in number_of:
                raise UserError(
                    f"{each.where}: label {each.label!r} is none of the training "
                    f"file's: {', '.join(self.labels)}"
                )
        return np.array([number_of[str(e.label)] for e in examples], np.int32)

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss, accuracy, F1 and Matthews' correlation."""
        truth = np.asarray(file.rows.labels)
        return class_figures(truth, np.stack(scores), binary=self.outputs == 2)

    def write(self, out: Path, file: File, scores: Scores) -> None:
        """TSV: the answer and the probability of each class."""
        rows = [["prediction", *(f"p({label})" for label in self.labels)]]
        rows += map(self.answer, scores)
        text = "".join("\t".join(cells) + "\n" for cells in rows)
        out.write_text(text, encoding="utf-8", newline="\n")

    def answer(self, score_Y: np.ndarray) -> list[str]:
        """The cells of one row of `write`."""
        p_Y = np.exp(score_Y - score_Y.max())
        p_Y /= p_Y.sum()
        return [self.labels[int(score_Y.argmax())], *(f"{p:.6f}" for p in p_Y)]


@dataclass(frozen=True)
class Numbers(Classes):
    """Regression by squared error."""

    outputs = 1

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """None."""
        return ()

    def numbers(self, examples: Sequence[Example]) -> np.ndarray:
        """The labels as finite numbers."""
        values = []
        for each in examples:
            try:
                value = float(str(each.label))
            except ValueError:
                value = float("nan")
            if not np.isfinite(value):
                raise UserError(f"{each.where}: {each.label!r} is no number")
            values.append(value)
        return np.array(values, np.float32)

    def sums(self, logits: Any, batch: Any) -> Sums:
        """Squared error."""
        error = jnp.square(logits[..., 0] - batch.labels)
        weight = batch.weights.sum()
        return {"task_loss": Mean((error * batch.weights).sum(), weight)}

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Squared error and correlations."""
        return number_figures(np.asarray(file.rows.labels), np.stack(scores)[:, 0])

    def answer(self, score_Y: np.ndarray) -> list[str]:
        """The number."""
        return [f"{score_Y[0]:.6g}"]
