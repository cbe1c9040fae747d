"""Answers and truths → figures by the field's definitions, in numpy.

class_figures, number_figures     GLUE (Wang et al. 2019)
entity_figures                    whole entities, by the rules of conlleval
answer_scores, best_threshold     SQuAD 1.1, SQuAD 2.0 and CMRC 2018

A figure that is 0 / 0 is 0, as in scikit-learn; a correlation with a constant is NaN.
"""

import collections
import difflib
import itertools
import math
import re
import string
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxlm.metrics import majority_accuracy

Rules = Literal["squad", "cmrc"]


# Classes and numbers.


def class_figures(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Figures of a classification: int [n] and logits [n, classes].

    With two classes also "f1", of the second one.
    """
    classes = scores.shape[1]
    counts = np.zeros((classes, classes), np.int64)  # truth, answer
    np.add.at(counts, (truth, scores.argmax(1)), 1)
    scores = scores.astype(np.float64)
    top = scores.max(1, keepdims=True)
    logs = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
    mentioned = counts.sum(0) + counts.sum(1)
    f1 = 2 * np.diag(counts) / np.maximum(mentioned, 1)
    out = {
        "loss": float(-logs[np.arange(len(truth)), truth].mean()),
        "accuracy": float(np.trace(counts) / len(truth)),
        "macro_f1": float(f1[mentioned > 0].mean()),
        "mcc": _matthews(counts),
        "majority_accuracy": majority_accuracy(counts.sum(1)),
    }
    return {**out, "f1": float(f1[1])} if classes == 2 else out


def _matthews(counts: np.ndarray) -> float:
    """Matthews' correlation of a confusion matrix of any size (Gorodkin 2004)."""
    truths, answers = counts.sum(1).astype(float), counts.sum(0).astype(float)
    total, correct = float(counts.sum()), float(np.trace(counts))
    covariance = correct * total - truths @ answers
    spread = math.sqrt(total**2 - answers @ answers) * math.sqrt(
        total**2 - truths @ truths
    )
    return covariance / spread if spread else 0.0


def number_figures(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Mean squared error and both correlations of a regression, float [n] each."""
    truth, answer = truth.astype(np.float64), answer.astype(np.float64)
    return {
        "loss": float(np.mean((truth - answer) ** 2)),
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
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


# Entities.
#
#     EU    rejects  German  call        BIO     B-ORG O B-MISC O
#     ORG            MISC                BIOES   S-ORG O S-MISC O     (BMES, BILOU too)

# Other schemes' letters for I, E and S.
_SAME = {"M": "I", "L": "E", "U": "S"}
_BEGINS, _ENDS = ("B", "S"), ("E", "S")


class Entity(NamedTuple):
    """Words `start` … `end` - 1 of a sentence."""

    start: int
    end: int
    kind: str


def entity_tag(tag: str) -> tuple[str, str] | None:
    """("B", "ORG") for B-ORG, ("O", "") for O, None for a tag of another form."""
    if tag == "O":
        return "O", ""
    place, dash, kind = tag[:1], tag[1:2], tag[2:]
    place = _SAME.get(place, place)
    if place not in "BIES" or not place or dash not in ("-", "_") or not kind:
        return None
    return place, kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order.

    An entity continues while tags of its type follow that do not begin one; an I or E
    without a beginning begins one (seqeval's default; Tjong Kim Sang 2000).
    """
    found, start = [], 0
    place_before, kind_before = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        place, kind = entity_tag(tag) or ("O", "")
        same = kind == kind_before
        inside = place not in ("O", *_BEGINS) and same and place_before not in _ENDS
        if kind_before and not inside:
            found.append(Entity(start, i, kind_before))
        if kind and not inside:
            start = i
        place_before, kind_before = place, kind
    return found


def as_bio(tags: Sequence[str]) -> list[str]:
    """The same entities as BIO tags."""
    out = ["O"] * len(tags)
    for start, end, kind in entities(tags):
        out[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return out


def entity_figures(
    truth: Sequence[Sequence[str]], answer: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of whole entities; accuracy of tags."""
    correct = wanted = given = words = equal = 0
    for want, got in zip(truth, answer, strict=True):
        ours, theirs = set(entities(got)), set(entities(want))
        correct += len(ours & theirs)
        wanted, given = wanted + len(theirs), given + len(ours)
        words += len(want)
        equal += sum(a == b for a, b in zip(want, got, strict=True))
    return {
        "entity_f1": 2 * correct / max(1, wanted + given),
        "precision": correct / max(1, given),
        "recall": correct / max(1, wanted),
        "entities": float(wanted),
        "accuracy": equal / max(1, words),
    }


# Answers to questions, by the official scripts.

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Those of cmrc2018_evaluate.py; its two-character ellipsis is one character here.
_CMRC_PUNCTUATION = str.maketrans(
    "", "", "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』"
)
_IDEOGRAPH = re.compile("([\u4e00-\u9fa5])")


def answer_scores(
    truths: Sequence[str], answer: str, rules: Rules
) -> tuple[float, float]:
    """(EM, F1) of an answer, each the best over the true answers.

    Without true answers "" is correct. SQuAD compares text in lower case without
    punctuation and articles, and F1 is over bags of words; CMRC 2018 takes each
    ideograph as a word, and F1 is over the longest common run of words.
    """
    # The official script leaves out true answers of which nothing is left.
    truths = [truth for truth in truths if rules == "cmrc" or normal(truth)]
    if not truths:
        correct = float(normal(answer) == "")
        return correct, correct
    pair = _squad_pair if rules == "squad" else _cmrc_pair
    found = [pair(truth, answer) for truth in truths]
    return max(exact for exact, _ in found), max(f1 for _, f1 in found)


def normal(text: str) -> str:
    """An answer as SQuAD's script compares it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _squad_pair(truth: str, answer: str) -> tuple[float, float]:
    want, got = normal(truth).split(), normal(answer).split()
    exact = float(want == got)
    if not want or not got:
        return exact, exact
    same = sum((collections.Counter(want) & collections.Counter(got)).values())
    return exact, 2 * same / (len(want) + len(got))


def _cmrc_pair(truth: str, answer: str) -> tuple[float, float]:
    exact = float(_unpunctuated(truth) == _unpunctuated(answer))
    want, got = cmrc_words(truth), cmrc_words(answer)
    run = difflib.SequenceMatcher(None, want, got, False).find_longest_match().size
    return exact, 2 * run / (len(want) + len(got)) if run else 0.0


def _unpunctuated(text: str) -> str:
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def cmrc_words(text: str) -> list[str]:
    """Ideographs one by one, other text in words, without CMRC's punctuation."""
    words: list[str] = []
    for part in _IDEOGRAPH.split(_unpunctuated(text)):
        # As nltk's word_tokenize without its English contractions.
        words += re.findall(r"\d[\d.,]*\d|\w+|[^\w\s]", part)
    return words


class Threshold(NamedTuple):
    """The best figure over all thresholds, and the threshold that reaches it."""

    figure: float
    threshold: float


def best_threshold(
    values: Sequence[float],
    null_score_diffs: Sequence[float],
    answerable: Sequence[bool],
    empty: Sequence[bool],
) -> Threshold:
    """The threshold up to which answers stand; above it the answer is "".

    As `find_best_thresh` of SQuAD 2.0's script: answers are added in the order of their
    difference. The script's differences are probabilities, so 0 answers nothing; these
    may be negative, so the start lies below the least of them. Answers of one
    difference, which no threshold separates, count together.

    Args:
        values: EM or F1 of each answer, before any threshold.
        null_score_diffs: score of no answer minus that of the answer.
        answerable: whether each question has an answer.
        empty: whether each answer is "" at any threshold.
    """
    now = best = float(sum(not each for each in answerable))
    threshold = min(0.0, math.nextafter(min(null_score_diffs), -math.inf))
    order = sorted(range(len(values)), key=null_score_diffs.__getitem__)
    for i, after in itertools.zip_longest(order, order[1:]):
        now += values[i] if answerable[i] else (0 if empty[i] else -1)
        last = after is None or null_score_diffs[after] > null_score_diffs[i]
        if now > best and last:
            best, threshold = now, null_score_diffs[i]
    return Threshold(best / len(values), float(threshold))
