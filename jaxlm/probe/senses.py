"""Uses of a word → its vectors by layer: which uses are near, and are they one sense.

    the bank lent me money     ─┐ near in a layer that knows the sense
    money from the bank        ─┘
    they fished from the bank  ── far

A use is a word at a place in a text; its vector is the mean over its tokens.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.checks import optional
from jaxlm.files import read_json
from jaxlm.probe.features import Reader, hidden_states, text_of_use
from jaxlm.text.find import line_files
from jaxlm.text.sources import read_lines
from jaxlm.types import UserError, note, plural

_TIE = 1e-5  # cosines that differ by less are equal: rounding must not decide
_SPACELESS = re.compile("[\u2e80-\ud7ff]")  # Chinese and Japanese: no word boundary


class Use(NamedTuple):
    """A word at a place in a text."""

    text: str
    begin: int
    end: int
    sense: str = ""

    @property
    def word(self) -> str:
        """The word as it is written there."""
        return self.text[self.begin : self.end]


def uses_of(word: str, paths: Sequence[str]) -> list[Use]:
    """Every use of a word form, in any case, in files with a text in each line.

    If all lines have a tab, what stands before it is the sense.
    """
    files = line_files(paths)
    return uses_in(word, [each for file in files for each in read_lines(file)])


def uses_in(word: str, texts: Iterable[str], least: int = 2) -> list[Use]:
    """As `uses_of`, in lines of text; UserError if there are fewer than `least`."""
    lines = [each for each in texts if each.strip()]
    cells = [each.partition("\t") for each in lines]
    if not all(tab for _, tab, _ in cells):
        cells = [("", "", each) for each in lines]
    inside = re.escape(word)
    if not _SPACELESS.search(word):
        inside = rf"(?<!\w){inside}(?!\w)"
    uses = [
        Use(text, each.start(), each.end(), sense)
        for sense, _, text in cells
        for each in re.finditer(inside, text, re.IGNORECASE)
    ]
    if len(uses) < least:
        how = "does not occur" if not uses else "occurs once; a comparison needs two"
        raise UserError(f"the word {word!r} {how} in {plural(len(lines), 'line')}")
    return uses


def words_of(directory: Path) -> list[Path]:
    """The words' directories in a directory of CoarseWSD-20, or a word's alone."""
    if not directory.is_dir():
        raise UserError(f"--data {directory} is not a directory")
    found = sorted(each.parent for each in directory.glob("*/classes_map.txt"))
    if not found and not (directory / "classes_map.txt").is_file():
        names = "classes_map.txt, as in CoarseWSD-20, and no dev/, as in WiC"
        raise UserError(f"--data {directory} has no {names}")
    return found or [directory]


def read_coarsewsd(directory: Path) -> tuple[list[Use], list[Use]]:
    """(training uses, test uses) of a word of CoarseWSD-20."""
    names = read_json(directory / "classes_map.txt")
    splits = []
    for split in ("train", "test"):
        lines = _pairs(directory, split)
        splits.append([_marked(row, names.get(gold, gold)) for row, gold in lines])
    known = {each.sense for each in splits[0]}
    lacking = Counter(each.sense for each in splits[1] if each.sense not in known)
    if lacking:
        senses = ", ".join(f"{name} ({count})" for name, count in lacking.items())
        note(f"{directory}: training lacks senses of the test, always wrong: {senses}")
    return splits[0], splits[1]


def read_wic(directory: Path) -> tuple[list[tuple[Use, Use, bool]], ...]:
    """(training pairs, dev pairs) of Word-in-Context: two uses, one sense or not."""
    found = []
    for split in ("train", "dev"):
        pairs = []
        for row, gold in _pairs(directory / split, split):
            _, _, places, *texts = row.split("\t")
            one, two = (
                _marked(f"{place}\t{text}", "")
                for place, text in zip(places.split("-"), texts, strict=True)
            )
            pairs.append((one, two, gold == "T"))
        found.append(pairs)
    return tuple(found)


def _pairs(directory: Path, split: str) -> list[tuple[str, str]]:
    parts = (f"{directory}/{split}.{kind}.txt" for kind in ("data", "gold"))
    rows, golds = ([*read_lines(path)] for path in parts)
    if not rows or len(rows) != len(golds):
        counts = f"{len(rows):,} lines of data and {len(golds):,} of gold"
        raise UserError(f"{directory}/{split}: {counts}")
    return list(zip(rows, golds, strict=True))


def _marked(row: str, sense: str) -> Use:
    """The use in "3<TAB>a text, cut at spaces"."""
    place, _, text = row.partition("\t")
    words = text.split(" ")
    if not place.isdecimal() or int(place) >= len(words):
        raise UserError(f"{row[:60]!r}: its first column is not the place of a word")
    begin = len(" ".join([*words[: int(place)], ""]))
    return Use(text, begin, begin + len(words[int(place)]), sense)


def vectors_of(
    reader: Reader,
    uses: Sequence[Use],
    cache: Path | None,
    tell: Callable[[str], None] = lambda _: None,
) -> np.ndarray:
    """The vectors [uses, M, D] of uses, see `hidden_states`; UserError if one has no
    token."""
    texts = [text_of_use(reader, each.text, each.begin, each.end) for each in uses]
    for use, text in zip(uses, texts, strict=True):
        if text is None:
            raise UserError(f"{use.word!r} has no tokens, or too many: {use.text!r}")
    known = [each for each in texts if each]
    states = hidden_states(reader, known, cache, tell, 16 if len(uses) > 1 else 1)
    sums = np.add.reduceat(states.hidden, states.offsets[:-1], axis=0)
    return sums / np.diff(states.offsets)[:, None, None].astype(np.float32)


class Near(NamedTuple):
    """A layer's view of n uses."""

    cosine: np.ndarray  # [n, n]
    nearest: np.ndarray  # int [n, n - 1]: other uses, nearest first


class Map(NamedTuple):
    """Uses on a plane, by PCA."""

    places: np.ndarray  # [n, 2]
    shown: float  # share of the variance


def near(vectors: np.ndarray) -> Near:
    """The nearest uses of one layer's vectors [n, D]."""
    cosine = unit(vectors) @ unit(vectors).T
    others = np.where(np.eye(len(vectors), dtype=bool), -np.inf, cosine)
    order = np.argsort(-np.round(others, 6), axis=1, kind="stable")[:, :-1]
    return Near(cosine, order)


def mapped(vectors: np.ndarray) -> Map:
    """The map of one layer's vectors [n, D]."""
    decomposition = optional("sklearn.decomposition", "maps", "scikit-learn")
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    if not np.abs(centred).max() > _TIE:  # a static vector: all uses at one point
        return Map(np.zeros((len(vectors), 2)), 1.0)
    pca = decomposition.PCA(2, svd_solver="full")
    places = pca.fit_transform(centred)
    return Map(places, float(pca.explained_variance_ratio_.sum()))


def agreement(found: Near, senses: Sequence[str]) -> float:
    """The share of uses whose nearest other use has the same sense, of those that have
    such a use; NaN if none has."""
    kinds, counts = np.array(senses), Counter(senses)
    same = kinds[found.nearest[:, 0]] == kinds
    known = same[[counts[each] > 1 for each in senses]]
    return float(known.mean()) if len(known) else math.nan


FIGURES = [f"{by} {what}" for by in ("1-NN", "centroid") for what in ("accuracy", "F1")]


def figures(
    vectors: np.ndarray, train: Sequence[Use], test: Sequence[Use]
) -> list[float]:
    """`FIGURES` of the test, whose vectors follow those of `train`; F1 is macro-F1."""
    kinds, wanted = ([each.sense for each in split] for split in (train, test))
    split = vectors[: len(train)], kinds, vectors[len(train) :]
    said = (nearest_neighbour(*split), centroid(*split))
    return [figure for each in said for figure in scored(each, wanted)]


def nearest_neighbour(
    train: np.ndarray, senses: Sequence[str], test: np.ndarray
) -> list[str]:
    """The sense of the nearest training vector; of several as near, the sense of most,
    then the more frequent: equal vectors get the majority's sense."""
    names, onehot = _onehot(senses)
    cosine = unit(test) @ unit(train).T
    votes = (cosine >= cosine.max(1, keepdims=True) - _TIE) @ onehot
    return [names[i] for i in votes.argmax(1)]


def centroid(train: np.ndarray, senses: Sequence[str], test: np.ndarray) -> list[str]:
    """The sense with the nearest mean of training vectors; ties as above."""
    names, onehot = _onehot(senses)
    cosine = unit(test) @ unit(onehot.T @ unit(train)).T
    return [names[i] for i in (cosine >= cosine.max(1, keepdims=True) - _TIE).argmax(1)]


def scored(said: Sequence[str], senses: Sequence[str]) -> tuple[float, float]:
    """Accuracy and macro-F1 over the senses of the test."""
    metrics = optional("sklearn.metrics", "F1", "scikit-learn")
    facts: dict[str, Any] = {"labels": sorted(set(senses)), "zero_division": 0}
    f1 = metrics.f1_score(senses, said, average="macro", **facts)
    return float(np.mean(np.array(said) == np.array(senses))), float(f1)


def by_threshold(
    train: np.ndarray, gold: np.ndarray, dev: np.ndarray, dev_gold: np.ndarray
) -> tuple[float, float]:
    """(the threshold of the cosine that is best on train, accuracy on dev)."""
    metrics = optional("sklearn.metrics", "thresholds", "scikit-learn")
    wrong, right, cuts = metrics.roc_curve(gold, train, drop_intermediate=False)
    gains = right * gold.sum() - wrong * (~gold).sum()
    threshold = float(cuts[1:][gains[1:].argmax()])
    return threshold, float(((dev >= threshold) == dev_gold).mean())


def cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The cosine of each pair of vectors."""
    return (unit(one) * unit(two)).sum(-1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [..., D] at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _onehot(senses: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """(the senses, the most frequent first; float [uses, senses])."""
    names = [name for name, _ in Counter(senses).most_common()]
    return names, (np.array(senses)[:, None] == np.array(names)).astype(np.float32)
