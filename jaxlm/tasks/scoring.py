"""Answers and truths → figures by the field's definitions, in numpy.

Those of GLUE (Wang et al. 2019): accuracy, F1 of the second class, Matthews' and the
two correlations. Where a figure is 0 / 0 it is 0, as scikit-learn has it, but a
correlation with a constant, which is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.metrics import majority_accuracy


def confusion(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how often each truth (row) got each answer (column)."""
    out = np.zeros((classes, classes), np.int64)
    np.add.at(out, (truth, answer), 1)
    return out


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of each class of a confusion matrix; 0 for one that nobody mentions."""
    right = np.diag(counts)
    both = counts.sum(0) + counts.sum(1)
    return 2 * right / np.maximum(both, 1)


def matthews(counts: np.ndarray) -> float:
    """Matthews' correlation of a confusion matrix of any size (Gorodkin 2004)."""
    truths, answers = counts.sum(1).astype(float), counts.sum(0).astype(float)
    total, right = float(counts.sum()), float(np.trace(counts))
    covariance = right * total - truths @ answers
    spread = math.sqrt(total**2 - answers @ answers) * math.sqrt(
        total**2 - truths @ truths
    )
    return covariance / spread if spread else 0.0


def class_figures(
    truth: np.ndarray, scores: np.ndarray, *, second: bool
) -> dict[str, float]:
    """Of a classification.

    Args:
        truth: int [n].
        scores: float [n, classes], logits.
        second: there are two classes, and F1 is that of the second.
    """
    classes = scores.shape[1]
    counts = confusion(truth, scores.argmax(1), classes)
    scores = scores.astype(np.float64)
    top = scores.max(1, keepdims=True)
    logs = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
    mentioned = counts.sum(0) + counts.sum(1) > 0
    out = {
        "loss": float(-logs[np.arange(len(truth)), truth].mean()),
        "accuracy": float(np.trace(counts) / len(truth)),
        "macro_f1": float(f1_of(counts)[mentioned].mean()),
        "mcc": matthews(counts),
        "majority_accuracy": majority_accuracy(counts.sum(1)),
    }
    return {**out, "f1": float(f1_of(counts)[1])} if second else out


def number_figures(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Of a regression: mean squared error and both correlations.

    Args:
        truth: float [n].
        answer: float [n].
    """
    truth, answer = truth.astype(np.float64), answer.astype(np.float64)
    return {
        "loss": float(np.mean((truth - answer) ** 2)),
        "pearson": pearson(truth, answer),
        "spearman": pearson(ranks(truth), ranks(answer)),
    }


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation; NaN where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / spread if spread else math.nan


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value, from 1; equal ones share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


# What other schemes call B, I, E and S.
_SAME = {"M": "I", "L": "E", "U": "S"}
_BEGINS, _ENDS = ("B", "S"), ("E", "S")


class Entity(NamedTuple):
    """Words `start` … `end` - 1 of a sentence."""

    start: int
    end: int
    kind: str


def parts_of(tag: str) -> tuple[str, str] | None:
    """("B", "ORG") of B-ORG, ("O", "") of O; None: it is no such tag."""
    if tag == "O":
        return "O", ""
    place, dash, kind = tag[:1], tag[1:2], tag[2:]
    place = _SAME.get(place, place)
    if place not in "BIES" or not place or dash not in ("-", "_") or not kind:
        return None
    return place, kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order."""
    found, start = [], 0
    place_before, kind_before = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        place, kind = parts_of(tag) or ("O", "")
        same = kind == kind_before
        goes_on = place not in ("O", *_BEGINS) and same and place_before not in _ENDS
        if kind_before and not goes_on:
            found.append(Entity(start, i, kind_before))
        if kind and not goes_on:
            start = i
        place_before, kind_before = place, kind
    return found


def as_bio(tags: Sequence[str]) -> list[str]:
    """The same entities with B at the first word of each and I at the others."""
    out = ["O"] * len(tags)
    for start, end, kind in entities(tags):
        out[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return out


def entity_figures(
    truth: Sequence[Sequence[str]], answer: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of whole entities; accuracy of words."""
    right = asked = said = words = equal = 0
    for want, got in zip(truth, answer, strict=True):
        ours, theirs = set(entities(got)), set(entities(want))
        right += len(ours & theirs)
        asked, said = asked + len(theirs), said + len(ours)
        words += len(want)
        equal += sum(a == b for a, b in zip(want, got, strict=True))
    return {
        "entity_f1": 2 * right / max(1, asked + said),
        "precision": right / max(1, said),
        "recall": right / max(1, asked),
        "entities": float(asked),
        "accuracy": equal / max(1, words),
    }
