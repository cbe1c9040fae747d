"""A text → its words, phrases and entities, as spans of characters → marks of tokens.

    哈尔滨是黑龙江的省会            rjieba, or the user's own list
    `----' `----'   `--'
    entity  entity   word, phrase

What finds spans is a library or a list: `Finder` is all that a new one has to be. ERNIE
1.0 took its units from a lexer that was never released (PaddlePaddle/ERNIE#57, #224); a
user's own notion of an entity is a file of them.

A span holds whole words of the tokenizer (an ideograph is one) or it is dropped and
counted: its ends must lie where BERT's rules cut the text whatever is there, so that
the tokens of the pieces are those of the text.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxlm.text.vocabulary import Tokenizer
from jaxlm.text.wordpiece import CJK
from jaxlm.types import Mark, UserError

Kind = Literal["word", "phrase", "entity"]
Library = Literal["none", "rjieba"]

# jieba's tags of names: of persons, places, organisations, others.
_NAMES = ("nr", "ns", "nt", "nz")
# The bit of a span's first token, and of all of them.
_BITS = {
    "word": (Mark.WORD, Mark(0)),
    "phrase": (Mark.PHRASE, Mark.IN_PHRASE),
    "entity": (Mark.ENTITY, Mark.IN_ENTITY),
}


class Span(NamedTuple):
    """Characters `start` … `end` - 1 of a text."""

    start: int
    end: int
    kind: Kind


Finder = Callable[[str], list[Span]]


class Marked(NamedTuple):
    """What spans make of the tokens of some texts."""

    marks: np.ndarray  # uint8 [n]: bits of words, phrases and entities
    found: int  # phrases and entities that are marked
    dropped: int  # spans that lie across the tokenizer's words


def rjieba() -> Finder:
    """Chinese: words; phrases are those of two characters or more; entities are names.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from rjieba import tag
    except ImportError:
        raise UserError(
            "--spans rjieba needs a library: pip install 'jaxlm[zh]' (or rjieba)"
        ) from None

    def find(text: str) -> list[Span]:
        spans, at = [], 0
        for word, kind in tag(text):
            start, at = at, at + len(word)
            if word.isspace():
                continue
            spans.append(Span(start, at, "word"))
            if len(word) > 1 and kind not in ("x", "eng", "m"):
                spans.append(Span(start, at, "phrase"))
                if kind.startswith(_NAMES):
                    spans.append(Span(start, at, "entity"))
        return spans

    return find


class Lexicon:
    """Entities by a list: of those that begin at a place the longest, left to right.

    Case counts; in a script with spaces only whole words are found.
    """

    def __init__(self, entries: Iterable[str]):
        self.entries = frozenset(entries)
        lengths: dict[str, set[int]] = {}
        for entry in self.entries:
            lengths.setdefault(entry[0], set()).add(len(entry))
        self._lengths = {c: sorted(each, reverse=True) for c, each in lengths.items()}

    def __call__(self, text: str) -> list[Span]:
        """The entries in a text, none overlapping."""
        if self._lengths.keys().isdisjoint(text):
            return []
        may_cut = cuts(text)
        spans, at = [], 0
        while at < len(text):
            for length in self._lengths.get(text[at], ()):
                end = at + length
                if text[at:end] in self.entries and may_cut[at] and may_cut[end]:
                    spans.append(Span(at, end, "entity"))
                    at = end - 1
                    break
            at += 1
        return spans


def read_lexicon(path: str | Path) -> Lexicon:
    """An entity a line; what follows a tab is left out (THUOCL's counts).

    Raises:
        UserError: it cannot be read, or a line is empty or a repetition: which.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lexicon {path} cannot be read: {error}") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.split("\t")[0].strip()
        if not entry:
            raise UserError(f"lexicon {path}: line {number} is empty")
        if seen.setdefault(entry, number) != number:
            raise UserError(
                f"lexicon {path}: line {number} repeats line {seen[entry]}, {entry}"
            )
    if not seen:
        raise UserError(f"lexicon {path} is empty")
    return Lexicon(seen)


def lexicon_sha256(path: str | Path) -> str:
    """Of the entries of a list, whatever else its file holds."""
    entries = "\n".join(sorted(read_lexicon(path).entries))
    return hashlib.sha256(entries.encode()).hexdigest()


def open_finders(library: Library, lexicon: str) -> list[Finder]:
    """The user's list first: where spans of a kind overlap, the first finder's stay."""
    finders: list[Finder] = []
    if lexicon:
        finders.append(read_lexicon(lexicon))
    if library == "rjieba":
        finders.append(rjieba())
    return finders


class _Joins(dict):
    """Character → whether it may be one of several in a word of the tokenizer."""

    def __missing__(self, char: str) -> bool:
        if char.isascii():
            joins = char.isalnum()
        elif any(low <= char <= high for low, high in _IDEOGRAPHS):
            joins = False
        else:
            joins = not char.isspace() and unicodedata.category(char)[0] not in "PZ"
        self[char] = joins
        return joins


# wordpiece.py has a regular expression's class: "a-bc-d".
_IDEOGRAPHS = [(CJK[i], CJK[i + 2]) for i in range(0, len(CJK), 3)]
_JOINS = _Joins()


def cuts(text: str) -> np.ndarray:
    """bool [len(text) + 1]: whether BERT's rules surely cut before each character."""
    joins = np.fromiter(map(_JOINS.__getitem__, text), bool, len(text))
    out = np.ones(len(text) + 1, bool)
    out[1:-1] = ~(joins[:-1] & joins[1:])
    return out


def mark_spans(
    texts: Sequence[str],
    ids: np.ndarray,
    counts: np.ndarray,
    word_start: np.ndarray,
    tokenizer: Tokenizer,
    finders: Sequence[Finder],
) -> Marked:
    """The marks of all tokens of `texts`, word starts among them.

    Args:
        texts: what was tokenised.
        ids: int32 [n], their tokens in a row.
        counts: int64 [texts], tokens of each.
        word_start: bool [n], by the tokenizer; in a span of the kind word only its
            first token is one.
        tokenizer: that made them.
        finders: of spans, the most trusted first.
    """
    whole = "\n".join(texts)  # a line end is no token
    sizes = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(sizes + 1) - 1
    begins = ends - sizes
    spans, dropped = _spans_of(whole, texts, begins.tolist(), finders)
    edge = np.zeros(len(whole) + 1, bool)
    edge[begins] = edge[ends] = True
    for first, last in spans.values():
        edge[first] = edge[last] = True
    places = np.flatnonzero(edge)
    pieces = [whole[a:b] for a, b in itertools.pairwise(places.tolist())]
    again = tokenizer.encode_flat(pieces)
    marks = word_start * np.uint8(Mark.WORD)
    if not np.array_equal(again.ids, ids):
        # A rule of the tokenizer that `cuts` does not know: whose text is it?
        if len(texts) == 1:
            return Marked(
                marks, 0, dropped + sum(len(each[0]) for each in spans.values())
            )
        stops = np.cumsum(counts)
        return _joined(
            mark_spans(
                [text],
                ids[stop - count : stop],
                np.array([count]),
                word_start[stop - count : stop],
                tokenizer,
                finders,
            )
            for text, stop, count in zip(texts, stops, counts, strict=True)
        )
    token = np.zeros(len(whole) + 1, np.int64)  # first one at or after a place
    token[places] = np.append(0, np.cumsum(again.counts))
    found = 0
    for kind, bounds in spans.items():
        first, last = (token[each] for each in bounds)
        read = first < last  # else: nothing that the tokenizer reads
        dropped += int((~read).sum())
        found += 0 if kind == "word" else int(read.sum())
        _mark(marks, kind, first[read], last[read])
    return Marked(marks, found, dropped)


def _mark(marks: np.ndarray, kind: str, first: np.ndarray, last: np.ndarray) -> None:
    start, inside = _BITS[kind]
    covered = _covered(np.stack([first, last], axis=1), len(marks))
    if kind == "word":
        marks[covered] &= np.uint8(~Mark.WORD & 0xFF)
    marks[covered] |= np.uint8(inside)
    marks[first] |= np.uint8(start)


def _joined(parts: Iterable[Marked]) -> Marked:
    marks, found, dropped = zip(*parts, strict=True)
    return Marked(np.concatenate(marks), sum(found), sum(dropped))


def _spans_of(
    whole: str, texts: Sequence[str], begins: list[int], finders: Sequence[Finder]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """(first, end) characters by kind, none overlapping; how many were dropped."""
    may_cut = cuts(whole)
    kept: dict[str, list[np.ndarray]] = {kind: [] for kind in _BITS}
    dropped = 0
    for finder in finders:
        found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in _BITS}
        for text, begin in zip(texts, begins, strict=True):
            for start, end, kind in finder(text):
                found[kind].append((begin + start, begin + end))
        for kind, bounds in found.items():
            each = np.array(bounds, np.int64).reshape(-1, 2)
            fits = may_cut[each].all(axis=1)
            dropped += int((~fits).sum())
            each = each[fits]
            for earlier in kept[kind]:
                covered = np.cumsum(_covered(earlier, len(whole) + 1))
                covered = np.append(0, covered)
                each = each[covered[each[:, 1]] == covered[each[:, 0]]]
            kept[kind].append(each)
    joined = {kind: np.concatenate(parts) for kind, parts in kept.items() if parts}
    return {kind: (each[:, 0], each[:, 1]) for kind, each in joined.items()}, dropped


def _covered(bounds: np.ndarray, size: int) -> np.ndarray:
    """bool [size]: places inside one of [first, end)."""
    edge = np.zeros(size + 1, np.int64)
    np.add.at(edge, bounds[:, 0], 1)
    np.add.at(edge, bounds[:, 1], -1)
    return np.cumsum(edge)[:-1] > 0
