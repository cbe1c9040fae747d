"""A text, or two, → one of several classes, or a number: cases 1 and 3 of BERT.

Devlin et al. 2018, figure 4 (a, b); google-research/bert run_classifier.py, where
numbers are missing: they are learnt by squared error, as in the field's own recipes.
Two texts in both orders are one example whose vectors are added: GPT-1's similarity
(Radford et al. 2018, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.families import family_of
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean
from jaxlm.objectives.objective import Sums
from jaxlm.tasks.read.tables import Example, read_table
from jaxlm.tasks.rows import TaskRows, encode, encode_several
from jaxlm.tasks.scoring import class_figures, number_figures
from jaxlm.tasks.task import Scores, Task
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


def classes_of(examples: Sequence[Example], path: str) -> tuple[str, ...]:
    """The labels of a training file, sorted: numbers by size, others by spelling.

    Raises:
        UserError: there is one alone, or they look like numbers to be learnt.
    """
    labels = {str(each.label) for each in examples}
    if len(labels) < 2:
        raise UserError(f"{path} has one class only: {labels.pop()!r}")
    if len(labels) > 1000:
        raise UserError(
            f"{path} has {len(labels):,} different labels: pass --task.kind number if "
            "they are numbers"
        )
    numeric = all(each.removeprefix("-").isdecimal() for each in labels)
    return tuple(sorted(labels, key=int if numeric else str))


def class_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Classes by softmax, numbers by squared error."""
    task = config.task
    numbers = task.kind == "number"
    frame = family_of(config.model).frame(config.model, tokenizer, task=True)

    def encoded(examples: Sequence[Example], labelled: bool) -> TaskRows:
        if task.both_orders:
            both = [(each, _swapped(each)) for each in examples]
            rows = encode_several(both, frame, config.length, 2)
        else:
            rows = encode(examples, frame, config.length)
        if not labelled:
            return rows
        return rows._replace(labels=_numbers(examples) if numbers else _ids(examples))

    def _ids(examples: Sequence[Example]) -> np.ndarray:
        number_of = {label: i for i, label in enumerate(task.labels)}
        for each in examples:
            if each.label not in number_of:
                raise UserError(
                    f"{each.where}: label {each.label!r} is none of the training "
                    f"file's: {', '.join(task.labels)}"
                )
        return np.array([number_of[str(e.label)] for e in examples], np.int32)

    def figures(
        examples: Sequence[Example], rows: TaskRows, scores: Scores
    ) -> dict[str, float]:
        found, truth = np.stack(scores), np.asarray(rows.labels)
        if numbers:
            return number_figures(truth, found[:, 0])
        return class_figures(truth, found, second=len(task.labels) == 2)

    return Task(
        outputs=1 if numbers else len(task.labels),
        pooling=task.pooling,
        read=lambda path, labelled: read_table(path, task, labelled=labelled),
        encode=encoded,
        sums=_number_sums if numbers else class_sums,
        figures=figures,
        write=lambda path, examples, rows, scores: write_answers(path, task, scores),
        join="add" if task.both_orders else "",
    )


def _swapped(example: Example) -> Example:
    return example._replace(text=str(example.pair), pair=example.text)


def _numbers(examples: Sequence[Example]) -> np.ndarray:
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


def write_answers(path: Path, task: TaskConfig, scores: Scores) -> None:
    """TSV: a line a row, the answer and, of classes, the probability of each."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        head = ["prediction", *(f"p({label})" for label in task.labels)]
        file.write("\t".join(head) + "\n")
        for each in scores:
            file.write("\t".join(_answer(task, each)) + "\n")


def _answer(task: TaskConfig, scores: np.ndarray) -> list[str]:
    if task.kind == "number":
        return [f"{scores[0]:.6g}"]
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return [task.labels[int(scores.argmax())], *(f"{p:.6f}" for p in shares)]


def class_sums(logits: Any, batch: Any) -> Sums:
    """Softmax over classes, or over alternatives."""
    loss, weight, correct = cross_entropy(logits, batch.labels, batch.weights)
    return {"task_loss": Mean(loss, weight), "task_accuracy": Mean(correct, weight)}


def _number_sums(logits: Any, batch: Any) -> Sums:
    error = jnp.square(logits[..., 0] - batch.labels)
    weight = batch.weights.sum()
    return {"task_loss": Mean((error * batch.weights).sum(), weight)}
