"""What differs between tasks; the kinds are in `kinds/`.

task.read(path)   → examples    with the file and line of each
task.encode       → rows        tokens, and labels as numbers
task.sums         → loss        of a micro-batch, as sums and counts
task.figures      → quality     of the scores of all rows, on the host
task.output       → answers     in the form of the task's own files
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxlm.config import FinetuneConfig
from jaxlm.families import family_of
from jaxlm.families.family import Frame
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean, Sums
from jaxlm.tasks.model import Join, Pooling
from jaxlm.tasks.rows import TaskRows
from jaxlm.text.sources import Digests
from jaxlm.text.tokenizers import Tokenizer

Scores = list[Any]  # of each row, float32 numpy arrays: [Y], or of its tokens [l, Y]


class File(NamedTuple):
    """A file of a task, read and encoded."""

    examples: Sequence[Any]
    rows: TaskRows


@dataclass(frozen=True)
class Task(ABC):
    """One task on one model."""

    config: FinetuneConfig  # labels are resolved, but for `read` and `labels_of`
    tokenizer: Tokenizer

    by_token: ClassVar[bool] = False  # each token has its own scores
    suffix: ClassVar[str] = "tsv"  # of a file of answers

    @property
    def frame(self) -> Frame:
        """How the model's rows are put together."""
        model = self.config.model
        return family_of(model).frame(model, self.tokenizer, task=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in order."""
        return self.config.task.labels

    @property
    def outputs(self) -> int:
        """Y, the width of the head."""
        return len(self.labels)

    @property
    def pooling(self) -> Pooling:
        """How a row becomes one vector."""
        return "none" if self.by_token else self.config.task.pooling

    @property
    def join(self) -> Join:
        """How the rows of an example are joined."""
        return "add" if self.config.task.both_orders else ""

    @abstractmethod
    def read(
        self, path: str, labelled: bool, digests: Digests | None = None
    ) -> Sequence[Any]:
        """The examples of a file, and the file's digest in `digests`.

        Raises:
            UserError: the file is not of the task's form; with the line.
        """

    def labels_of(self, examples: Sequence[Any], path: str) -> tuple[str, ...]:
        """The classes of a training file; () for a task without classes.

        Raises:
            UserError: the labels do not fit the task.
        """
        del examples, path
        return ()

    @abstractmethod
    def encode(self, examples: Sequence[Any], labelled: bool) -> TaskRows:
        """Rows of at most `config.length` tokens.

        Raises:
            UserError: a label is unknown; with the line.
        """

    def sums(self, logits: Any, batch: Any) -> Sums:
        """Loss and accuracy of a softmax over classes or alternatives."""
        loss, weight, correct = cross_entropy(logits, batch.labels, batch.weights)
        return {"task_loss": Mean(loss, weight), "task_accuracy": Mean(correct, weight)}

    @abstractmethod
    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """The quality of the scores of a labelled file."""

    @abstractmethod
    def output(self, file: File, scores: Scores) -> str:
        """The text of a file with an answer for each example.

        Raises:
            UserError: the answers could not be told apart.
        """

    def open(self, path: str, labelled: bool, digests: Digests | None = None) -> File:
        """Read and encode a file; UserError if it does not fit the task."""
        examples = self.read(path, labelled, digests)
        return File(examples, self.encode(examples, labelled))
