"""The interface of a task; the kinds are in `classes.py`, `tags.py` and `spans.py`.

    task.read(path)   → examples    with the file and line of each
    task.encode       → rows        tokens, and labels as numbers
    task.sums         → loss        of a micro-batch, as sums and counts
    task.figures      → quality     of the scores of all rows, on the host
    task.output       → answers     in the form of the task's own files

Next: `batches.py`.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.config import FinetuneConfig
from jaxlm.families import family_of
from jaxlm.families.family import Frame, Tokens
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean, Sums
from jaxlm.text.sources import Digests
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import UserError

NONE = -1  # no example, no label
Scores = list[Any]  # of each row, float32 numpy arrays: [Y], or of its tokens [l, Y]


class TaskRows(NamedTuple):
    """All rows of a file, of any length, on the host."""

    tokens: list[Tokens]  # of each row, [CLS] and [SEP] included
    pair_start: np.ndarray  # int32 [n]: where the second text begins, or the row ends
    pad: int
    # For each row a class (int32), a number (float32) or two positions (int32 [n, 2]),
    # or for each of its tokens a class. NONE where there is no label.
    labels: np.ndarray | list[np.ndarray]
    notes: tuple[str, ...] = ()  # for people
    origins: Sequence[Any] = ()  # where each row comes from, as its task needs it
    group: int = 0  # K rows are an example; 0: one row is, and batches have no axis K

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens in each example; in a group, in its longest row."""
        each = np.array([len(each) for each in self.tokens], np.int64)
        return each.reshape(-1, self.group).max(1) if self.group else each


class File(NamedTuple):
    """A file of a task, read and encoded."""

    examples: Sequence[Any]
    rows: TaskRows


@dataclass(frozen=True)
class Task(ABC):
    """A task with its config and the tokenizer of its model."""

    config: FinetuneConfig  # labels are resolved, but for `read` and `labels_of`
    tokenizer: Tokenizer

    by_token: ClassVar[bool] = False  # each token has its own scores
    compete: ClassVar[bool] = False  # the rows of an example
    suffix: ClassVar[str] = "tsv"  # of a file of answers

    @property
    def frame(self) -> Frame:
        """The frame that makes rows of texts."""
        model = self.config.model
        return family_of(model).frame(model, self.tokenizer, task=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        return self.config.task.labels

    @property
    def outputs(self) -> int:
        """Y, the number of outputs of the head."""
        return len(self.labels)

    @abstractmethod
    def read(
        self, path: str, labelled: bool, digests: Digests | None = None
    ) -> Sequence[Any]:
        """The examples of a file; the file's digest is added to `digests`."""

    def labels_of(self, examples: Sequence[Any], path: str) -> tuple[str, ...]:
        """The classes of a training file's examples; () for a task without classes."""
        return ()

    @abstractmethod
    def encode(self, examples: Sequence[Any], labelled: bool) -> TaskRows:
        """The rows of the examples, with at most `config.length` tokens each."""

    @abstractmethod
    def texts(self, example: Any) -> Sequence[str]:
        """The texts, or the words, of an example."""

    def relabel(
        self, rows: TaskRows, examples: Sequence[Any]
    ) -> tuple[TaskRows, Counter[str], int]:
        """(rows that were encoded without labels with those that `figures` reads; the
        labels that training lacks, which are errors; the number of labels)."""
        return rows, Counter(), len(examples)

    def sums(self, logits: Any, batch: Any) -> Sums:
        """Loss and accuracy of a softmax over classes or alternatives."""
        loss, weight, correct = cross_entropy(logits, batch.labels, batch.weights)
        return {"task_loss": Mean(loss, weight), "task_accuracy": Mean(correct, weight)}

    @abstractmethod
    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """The quality of the scores of a labelled file."""

    @abstractmethod
    def output(self, file: File, scores: Scores) -> str:
        """The content of an answer file, with an answer for each example."""

    def remarks(self, path: str, examples: Sequence[Any], labelled: bool) -> list[str]:
        """What a person should know about the examples of a file."""
        return []

    def open(self, path: str, labelled: bool, digests: Digests | None = None) -> File:
        """Read and encode a file."""
        return self.file(path, self.read(path, labelled, digests), labelled)

    def file(self, path: str, examples: Sequence[Any], labelled: bool) -> File:
        """The examples of a file and their rows, with all remarks in the notes."""
        rows = self.encode(examples, labelled)
        if rows.tokens and rows.tokens[0].ndim == 1:  # not an ELMo's characters
            ids = np.concatenate(rows.tokens)
            warn_unknown(self.tokenizer, counted(self.tokenizer, ids))
        notes = self.remarks(path, examples, labelled)
        return File(examples, rows._replace(notes=(*notes, *rows.notes)))

    def with_fields(self, **fields: Any) -> "Task":
        """The task with other values of fields of `TaskConfig`."""
        changed = dataclasses.replace(self.config.task, **fields)
        config = dataclasses.replace(self.config, task=changed)
        return dataclasses.replace(self, config=config)

    def with_columns(self, columns: Mapping[str, Any]) -> "Task":
        """The task for a file whose columns have other names: field → name."""
        kind = self.config.task.kind
        if columns and self.by_token:
            raise UserError(f"task.text, task.label … are of tables, not of {kind}")
        if columns.get("pair") and not self.config.task.pair:
            raise UserError("task.pair: the model reads one text a row")
        return self.with_fields(**columns)
