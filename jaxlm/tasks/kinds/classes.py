"""One or two texts → a class or a number: cases (a) and (b) of BERT's figure 4.

Devlin et al. 2018; google-research/bert run_classifier.py. Numbers, which that code
does not have, are learnt by squared error, as is usual for STS-B. With both orders, the
vectors of the two rows are added: GPT-1's similarity (Radford et al. 2018, section
3.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.metrics import Mean, Sums
from jaxlm.tasks.read.tables import Example, read_table
from jaxlm.tasks.rows import TaskRows, encode, encode_groups
from jaxlm.tasks.scoring import class_figures, number_figures
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.text.sources import Digests
from jaxlm.types import UserError


@dataclass(frozen=True)
class Classes(Task):
    """Classification by softmax."""

    dtype: ClassVar[type] = np.int32  # of labels

    def read(
        self, path: str, labelled: bool, digests: Digests | None = None
    ) -> list[Example]:
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
        return self.labelled(rows, examples) if labelled else rows

    def labelled(self, rows: TaskRows, examples: Sequence[Example]) -> TaskRows:
        """The rows with the labels as numbers."""
        labels = np.array([self.number(each) for each in examples], self.dtype)
        return rows._replace(labels=labels)

    def number(self, example: Example) -> int | float:
        """The label as a number."""
        return index_of(example, self.labels, "the training file's: {}")

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss, accuracy, F1 and Matthews' correlation."""
        return class_figures(np.asarray(file.rows.labels), np.stack(scores))

    def output(self, file: File, scores: Scores) -> str:
        """TSV: the answer and the probability of each class."""
        rows = [["prediction", *(f"p({label})" for label in self.labels)]]
        rows += map(self.answer, scores)
        return "".join("\t".join(cells) + "\n" for cells in rows)

    def answer(self, score_Y: np.ndarray) -> list[str]:
        """The cells of one row of `output`."""
        p_Y = np.exp(score_Y - score_Y.max())
        p_Y /= p_Y.sum()
        return [self.labels[int(score_Y.argmax())], *(f"{p:.6f}" for p in p_Y)]


def index_of(example: Example, names: Sequence[str], those: str) -> int:
    """The index of an example's label in `names`.

    Raises:
        UserError: it is none of them; `those` says which they are.
    """
    if example.label not in names:
        raise UserError(
            f"{example.where}: label {example.label!r} is none of "
            + those.format(", ".join(names))
        )
    return names.index(example.label)


@dataclass(frozen=True)
class Numbers(Classes):
    """Regression by squared error."""

    dtype = np.float32
    outputs = 1

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """None."""
        return ()

    def number(self, example: Example) -> float:
        """The label, a finite number."""
        try:
            value = float(str(example.label))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{example.where}: {example.label!r} is no number")
        return value

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
