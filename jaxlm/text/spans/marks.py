"""Spans of characters → marks of tokens: aligned, or dropped and counted.

    哈尔滨是黑龙江的省会            each ideograph a token
    `----' `----'   `--'
    entity  entity   word, phrase

A span holds whole words of the tokenizer (an ideograph is one) or it is dropped and
counted: its ends must lie where BERT's rules cut the text whatever is there, so that
the tokens of the pieces are those of the text.
"""

from __future__ import annotations

import itertools
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.text.spans.kinds import Kind
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.text.tokenizers.wordpiece import CJK
from jaxlm.types import Mark

# The bit of a span's first token, and of all of them.
_BITS = {
    "word": (Mark.WORD, Mark(0)),
    "phrase": (Mark.PHRASE, Mark.IN_PHRASE),
    "entity": (Mark.ENTITY, Mark.IN_ENTITY),
}


_NUMBER = {kind: i for i, kind in enumerate(_BITS)}

Found = Sequence[tuple[int, int, Kind]]  # spans of one text


class Marked(NamedTuple):
    """What spans make of the tokens of some texts."""

    marks: np.ndarray  # uint8 [n]: bits of words, phrases and entities
    found: int  # phrases and entities that are marked
    dropped: int  # spans that lie across the tokenizer's words


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
JOINS = _Joins()


def cuts(text: str) -> np.ndarray:
    """bool [len(text) + 1]: whether BERT's rules surely cut before each character."""
    # Of each distinct character once, by their numbers.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    seen = np.zeros(sys.maxunicode + 1, bool)
    seen[codes] = True
    used = np.flatnonzero(seen)
    seen[used] = [JOINS[chr(code)] for code in used.tolist()]
    joins = seen[codes]
    out = np.ones(len(text) + 1, bool)
    out[1:-1] = ~(joins[:-1] & joins[1:])
    return out


def mark_spans(
    texts: Sequence[str],
    ids: np.ndarray,
    counts: np.ndarray,
    word_start: np.ndarray,
    tokenizer: Tokenizer,
    spans: Sequence[Sequence[Found]],
) -> Marked:
    """The marks of all tokens of `texts`, word starts among them.

    Args:
        texts: what was tokenised.
        ids: int32 [n], their tokens in a row.
        counts: int64 [texts], tokens of each.
        word_start: bool [n], by the tokenizer; in a span of the kind word only its
            first token is one.
        tokenizer: that made them.
        spans: by each finder, the most trusted first: of each text.
    """
    whole = " ".join(texts)  # a space is no token
    sizes = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(sizes + 1) - 1
    begins = ends - sizes
    kept, dropped = _fitting(whole, begins, spans)
    edge = np.zeros(len(whole) + 1, bool)
    edge[begins] = edge[ends] = True
    for first, last in kept.values():
        edge[first] = edge[last] = True
    places = np.flatnonzero(edge)
    pieces = [whole[a:b] for a, b in itertools.pairwise(places.tolist())]
    again, sizes_of = _tokens_of(pieces, tokenizer)
    marks = word_start * np.uint8(Mark.WORD)
    if not np.array_equal(again, ids):
        # A rule of the tokenizer that `cuts` does not know: whose text is it?
        if len(texts) == 1:
            return Marked(
                marks, 0, dropped + sum(len(each[0]) for each in kept.values())
            )
        stops = np.cumsum(counts)
        return _joined(
            mark_spans(
                [text],
                ids[stop - count : stop],
                np.array([count]),
                word_start[stop - count : stop],
                tokenizer,
                [[each[i]] for each in spans],
            )
            for i, (text, stop, count) in enumerate(
                zip(texts, stops, counts, strict=True)
            )
        )
    token = np.zeros(len(whole) + 1, np.int64)  # first one at or after a place
    token[places] = np.append(0, np.cumsum(sizes_of))
    found = 0
    for kind, bounds in kept.items():
        first, last = (token[each] for each in bounds)
        read = first < last  # else: nothing that the tokenizer reads
        dropped += int((~read).sum())
        found += 0 if kind == "word" else int(read.sum())
        _mark(marks, kind, first[read], last[read])
    return Marked(marks, found, dropped)


def _tokens_of(
    pieces: Sequence[str], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """(ids in a row, tokens of each piece); each distinct piece is tokenised once."""
    number = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    found = tokenizer.encode_flat(list(number))
    which = np.fromiter(map(number.__getitem__, pieces), np.int64, len(pieces))
    counts = found.counts[which]
    begins = (np.cumsum(found.counts) - found.counts)[which]
    ends = np.cumsum(counts)
    # The places of a piece's tokens among those of the distinct ones.
    place = np.arange(counts.sum()) + np.repeat(begins - (ends - counts), counts)
    return found.ids[place], counts


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


def _fitting(
    whole: str, begins: np.ndarray, spans: Sequence[Sequence[Found]]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """(first, end) characters by kind, none overlapping; how many were dropped."""
    may_cut = cuts(whole)
    kept: dict[str, list[np.ndarray]] = {kind: [] for kind in _BITS}
    dropped = 0
    for each_text in spans:
        every = list(itertools.chain.from_iterable(each_text))
        starts, ends, kinds = zip(*every, strict=True) if every else ((), (), ())
        bounds = np.array([starts, ends], np.int64).T
        names = np.fromiter(map(_NUMBER.__getitem__, kinds), np.int8, len(kinds))
        bounds += np.repeat(begins, [len(each) for each in each_text])[:, None]
        for kind in _BITS:
            each = bounds[names == _NUMBER[kind]]
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
