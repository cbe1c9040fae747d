"""One or two texts → a class or a number; several alternatives → the best one.

    [CLS] a text [SEP]                              token types 0 0 0 0
    [CLS] a text [SEP] another one [SEP]                        0 0 0 0 1 1 1
    [CLS] a text [SEP] pair alternative [SEP]       a row for each alternative
    start a text pair delimiter alternative extract             the same for a GPT

Classes: Devlin et al. 2018, figure 4 (a) and (b); google-research/bert
run_classifier.py. Numbers, which that code lacks, are trained with squared error, as is
usual for STS-B. With both orders, the vectors of two rows are added: GPT-1's similarity
(Radford et al. 2018, section 3.3). Alternatives are scored by one head, with a softmax
over the rows of an example: Devlin et al., section 4.4 (SWAG); Radford et al., section
3.3 (RACE, Story Cloze).

Figures are GLUE's (Wang et al. 2019). A figure that is 0 / 0 is 0, as in scikit-learn;
a correlation with a constant is NaN.
"""

import itertools
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.families import family_of
from jaxlm.families.family import Frame
from jaxlm.metrics import Mean, Sums, majority_accuracy
from jaxlm.tasks import tables
from jaxlm.tasks.tables import Example, read_table
from jaxlm.tasks.task import File, Scores, Task, TaskRows
from jaxlm.tasks.values import check_distinct, is_number
from jaxlm.text.sources import Digests
from jaxlm.types import UserError, plural

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Classes(Task):
    """Classification by softmax."""

    dtype: ClassVar[type] = np.int32  # of labels

    def read(
        self, path: str, labelled: bool, digests: Digests | None = None
    ) -> list[Example]:
        """The examples of a table, one in each row."""
        return read_table(path, self.config.task, labelled=labelled, digests=digests)

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """The labels, sorted as numbers if all are whole numbers."""
        labels = {str(each.label) for each in examples}
        check_distinct(labels, path)
        if len(labels) < 2:
            raise UserError(f"{path} has one class only: {labels.pop()!r}")
        if len(labels) > 1000:
            remedy = "pass --task.kind number if they are numbers"
            raise UserError(f"{path} has {len(labels):,} different labels: {remedy}")
        numeric = all(re.fullmatch(r"-?\d{1,18}", each) for each in labels)
        return tuple(sorted(labels, key=int if numeric else str))

    def remarks(
        self, path: str, examples: Sequence[Example], labelled: bool
    ) -> list[str]:
        """How many examples each class has, and what looks wrong in the texts."""
        found = tables.remarks(path, examples)
        if labelled and self.labels:
            counts = Counter(map(self.number, examples))
            names = enumerate(self.labels[:20])
            shown = [f"{name} ({counts[i]:,})" for i, name in names]
            more = ", …" * (len(self.labels) > 20)
            found.append(f"classes in {path}: {', '.join(shown)}{more}")
        return found

    @property
    def group(self) -> int:
        """The number of rows in an example; 0: an example is one row."""
        return 2 if self.config.task.both_orders else 0

    def rows_of(self, example: Example) -> list[Example]:
        """The rows of an example, each as an `Example` with the row's texts."""
        swapped = example._replace(text=str(example.pair), pair=example.text)
        return [example, swapped] if self.group else [example]

    def encode(self, examples: Sequence[Example], labelled: bool) -> TaskRows:
        """A row for each example, or a group of rows; missing rows have no tokens."""
        groups = [self.rows_of(each) for each in examples]
        texts = list(itertools.chain(*groups))
        rows = encode(texts, self.frame, self.config.length)
        if self.group:
            there = [i < len(group) for group in groups for i in range(self.group)]
            slots = np.where(there, np.cumsum(there) - 1, -1)  # -1: the empty row
            tokens = [*rows.tokens, rows.tokens[0][:0]]
            tokens = [tokens[slot] for slot in slots]
            starts = np.append(rows.pair_start, np.int32(0))[slots]
            rows = rows._replace(tokens=tokens, pair_start=starts, group=self.group)
        labels = [self.number(e) if labelled else 0 for e in examples]
        return rows._replace(labels=np.array(labels, self.dtype))

    def texts(self, example: Example) -> Sequence[str]:
        """All texts of the row."""
        pair = [] if example.pair is None else [example.pair]
        return [example.text, *pair, *example.choices]

    def relabel(
        self, rows: TaskRows, examples: Sequence[Example]
    ) -> tuple[TaskRows, Counter[str], int]:
        """A class that training lacks has the number after the last, see `_find`."""
        unseen: Counter[str] = Counter()
        labels = []
        for each in examples:
            known = self.outputs == 1 or _find(each, self.labels) is not None
            labels.append(self.number(each) if known else len(self.labels))
            unseen.update([str(each.label)] * (not known))
        found = rows._replace(labels=np.array(labels, self.dtype))
        return found, unseen, len(examples)

    def number(self, example: Example) -> int | float:
        """The label as a number."""
        return _index_of(example, self.labels, "--task.labels or the training file: {}")

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss, accuracy, F1 and Matthews' correlation."""
        return class_figures(np.asarray(file.rows.labels), np.stack(scores))

    def output(self, file: File, scores: Scores) -> str:
        """TSV with the predicted class and the probability of each class."""
        rows = [["prediction", *(f"p({label})" for label in self.labels)]]
        rows += map(self.answer, scores)
        return "".join("\t".join(cells) + "\n" for cells in rows)

    def answer(self, score_Y: np.ndarray) -> list[str]:
        """The cells of one row of `output`."""
        p_Y = np.exp(score_Y - np.logaddexp.reduce(score_Y))
        return [self.labels[int(score_Y.argmax())], *(f"{p:.6f}" for p in p_Y)]


@dataclass(frozen=True)
class Numbers(Classes):
    """Regression by squared error."""

    dtype = np.float32
    outputs = 1

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """No labels."""
        return ()

    def number(self, example: Example) -> float:
        """The label as a number of float32; UserError if it is none."""
        label = str(example.label)
        if not is_number(label) or abs(float(label)) > _LARGEST:
            raise UserError(f"{example.where}: {label!r} is not a number")
        return float(label)

    def sums(self, logits: Any, batch: Any) -> Sums:
        """The squared error."""
        error = jnp.square(logits[..., 0] - batch.labels)
        weight = batch.weights.sum()
        return {"task_loss": Mean((error * batch.weights).sum(), weight)}

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Squared error and correlations."""
        return number_figures(np.asarray(file.rows.labels), np.stack(scores)[:, 0])

    def answer(self, score_Y: np.ndarray) -> list[str]:
        """The predicted number as text."""
        return [f"{score_Y[0]:.6g}"]


@dataclass(frozen=True)
class Choice(Classes):
    """Multiple choice; the labels are the names of the alternatives."""

    outputs = 1
    compete = True

    @property
    def group(self) -> int:
        """The largest number of alternatives; examples with fewer get empty rows."""
        return len(self.labels)

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """The series 0, 1, … or A, B, … or a, b, … that fits the labels best."""
        most = max(len(each.choices) for each in examples)
        series = map(str, range(most)), string.ascii_uppercase, string.ascii_lowercase
        names = max(
            (tuple(itertools.islice(each, most)) for each in series),
            key=lambda names: sum(each.label in names for each in examples),
        )
        hint = "{}: pass what the alternatives are called, in order, by --task.labels"
        for each in examples:
            _index_of(each, names, hint)
        return names

    def rows_of(self, example: Example) -> list[Example]:
        """A row for each alternative; for a GPT, the pair text joins the first text."""
        if len(example.choices) > self.group:
            this = f"{example.where}: {len(example.choices)} alternatives"
            most = f"in training there are up to {self.group}"
            raise UserError(f"{this}, {most}: name more by --task.labels")
        pair = [example.pair] if example.pair else []
        bidirectional = family_of(self.config.model).bidirectional
        before, after = ([], pair) if bidirectional else (pair, [])
        text = " ".join([example.text, *before])
        return [
            example._replace(text=text, pair=" ".join([*after, each]))
            for each in example.choices
        ]

    def number(self, example: Example) -> int:
        """The index of the right alternative."""
        names = self.labels[: len(example.choices)]
        return _index_of(example, names, "its alternatives, {}")

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss and accuracy."""
        found = super().figures(file, scores)
        kept = "task_loss", "accuracy", "majority_accuracy"
        return {name: found[name] for name in kept}


def _index_of(example: Example, names: Sequence[str], those: str) -> int:
    """The index of an example's label in `names`; `those` describes them in errors."""
    found = _find(example, names)
    if found is None:
        known = those.format(", ".join(names))
        raise UserError(f"{example.where}: label {example.label!r} is none of {known}")
    return found


def _find(example: Example, names: Sequence[str]) -> int | None:
    # A run may have the classes 0.0 and 1.0, from numbers of JSON.
    label = str(example.label)
    label = label if label in names else f"{label}.0"
    return names.index(label) if label in names else None


def encode(examples: Sequence[Example], frame: Frame, length: int) -> TaskRows:
    """Rows of at most `length` tokens, without labels.

    If a pair is too long, the longer text loses tokens at its end, one by one
    (google-research/bert run_classifier.py `_truncate_seq_pair`). For a GPT, each text
    has at most half of the row minus two tokens (openai/finetune-transformer-lm
    train.py `max_len`).
    """
    room = length - len(frame.begin) - len(frame.end)
    most = max(1, length // 2 - 2) if frame.halves else room
    first = frame.texts([each.text for each in examples])
    pairs = [each.pair for each in examples if each.pair is not None]
    second = frame.texts(pairs) if pairs else [None] * len(first)
    tokens, pair_start, cut = [], [], 0
    for text, pair in zip(first, second, strict=True):
        if pair is None:
            row = frame.row(text[:room])
            begins, shorter = len(row), len(text) > room
        else:
            a, b = text[:most], pair[:most]
            while len(a) + len(b) > room - len(frame.between):
                a, b = (a[:-1], b) if len(a) > len(b) else (a, b[:-1])
            row = frame.row(a, b)
            begins = len(row) - len(b) - len(frame.end)
            shorter = len(a) + len(b) < len(text) + len(pair)
        tokens.append(row)
        pair_start.append(begins)
        cut += shorter
    notes = (f"{plural(cut, 'row')} cut to {length} tokens",) * bool(cut)
    empty = [
        each.where for each, ids in zip(examples, first, strict=True) if not len(ids)
    ]
    if empty:
        without = plural(len(empty), "text")
        notes += (f"{without} without a token, the first is {empty[0]}",)
    labels = np.zeros(len(tokens), np.int32)
    return TaskRows(tokens, np.array(pair_start, np.int32), frame.pad, labels, notes)


def class_figures(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The figures of a classification, from labels int [n] and logits [n, classes].

    With two classes, "f1" is that of the second class. "mcc" is Matthews' correlation,
    generalised to any number of classes (Gorodkin 2004).
    """
    n, classes = scores.shape
    size = max(classes, int(truth.max()) + 1)  # no answer is a class beyond `classes`
    counts = np.zeros((size, size), np.int64)  # truth, answer
    np.add.at(counts, (truth, scores.argmax(1)), 1)
    truths, answers, correct = counts.sum(1), counts.sum(0), int(np.trace(counts))
    scores = np.pad(
        scores.astype(np.float64),
        ((0, 0), (0, size - classes)),
        constant_values=-np.inf,
    )
    losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(n), truth]
    f1 = 2 * np.diag(counts) / np.maximum(truths + answers, 1)
    spread = math.sqrt(n**2 - truths @ truths) * math.sqrt(n**2 - answers @ answers)
    out = {
        "task_loss": float(losses.mean()),
        "accuracy": correct / n,
        "macro_f1": float(f1[truths + answers > 0].mean()),
        "mcc": float(correct * n - truths @ answers) / spread if spread else 0.0,
        "majority_accuracy": majority_accuracy(truths),
    }
    return {**out, "f1": float(f1[1])} if classes == 2 else out


def number_figures(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Mean squared error, Pearson's and Spearman's correlation of truth and answer."""
    truth, answer = truth.astype(np.float64), answer.astype(np.float64)
    return {
        "task_loss": float(np.mean((truth - answer) ** 2)),
        "pearson": _pearson(truth, answer),
        "spearman": _pearson(_ranks(truth), _ranks(answer)),
    }


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / spread if spread else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 1; equal values share their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
