"""Spans of characters → marks of tokens: aligned, or dropped and counted.

    哈尔滨是黑龙江的省会            each ideograph a token
    `----' `----'   `--'
    entity  entity   word, phrase

A span holds whole words of the tokenizer (an ideograph is one) or it is dropped: its
ends must lie where BERT's rules cut the text whatever else is in it, so that the pieces
between the ends have the tokens of the text.
"""

import itertools
import sys
import unicodedata
from collections.abc import Sequence
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
    """Character → whether a word of the tokenizer may hold it beside others."""

    def __missing__(self, char: str) -> bool:
        if char.isascii():
            joins = char.isalnum()
        elif any(low <= char <= high for low, high in _IDEOGRAPHS):
            joins = False
        else:
            joins = not char.isspace() and unicodedata.category(char)[0] not in "PZ"
        self[char] = joins
        return joins


# CJK is written for a regular expression: "a-bc-d".
_IDEOGRAPHS = [(CJK[i], CJK[i + 2]) for i in range(0, len(CJK), 3)]
JOINS = _Joins()


def cuts(text: str) -> np.ndarray:
    """bool [len(text) + 1]: whether BERT's rules surely cut before each character."""
    # Each distinct character is looked up once.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    joining = np.zeros(sys.maxunicode + 1, bool)
    joining[codes] = True
    used = np.flatnonzero(joining)
    joining[used] = [JOINS[chr(code)] for code in used.tolist()]
    joins = joining[codes]
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
        ids: int32 [n], the tokens of the texts in a row.
        counts: int64 [texts], tokens of each.
        word_start: bool [n], by the tokenizer; in a span of the kind word, only the
            first token keeps it.
        spans: of each finder, the most trusted first: of each text.
    """
    whole = " ".join(texts)  # a space is no token
    sizes = np.array([len(text) for text in texts], np.int64)
    ends = np.cumsum(sizes + 1) - 1
    begins = ends - sizes
    kept, dropped = _fitting(whole, begins, spans)
    edge = np.zeros(len(whole) + 1, bool)
    for places in (begins, ends, *kept.values()):
        edge[places] = True
    edges = np.flatnonzero(edge)
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges.tolist())]
    again = tokenizer.encode_flat(pieces)
    marks = word_start * np.uint8(Mark.WORD)
    if not np.array_equal(again.ids, ids):
        # A rule of the tokenizer that `cuts` does not know: in which text?
        if len(texts) == 1:
            return Marked(marks, 0, dropped + sum(map(len, kept.values())))
        stops = np.cumsum(counts)[:-1]
        parts = zip(
            *(texts, np.split(ids, stops), np.split(word_start, stops), counts),
            *spans,
            strict=True,
        )
        each = [
            mark_spans(
                [text], of, np.array([n]), starts, tokenizer, [[f] for f in found]
            )
            for text, of, starts, n, *found in parts
        ]
        joined = np.concatenate([part.marks for part in each])
        return Marked(joined, sum(p.found for p in each), sum(p.dropped for p in each))
    token = np.zeros(len(whole) + 1, np.int64)  # the first one at or after an edge
    token[edges] = np.append(0, np.cumsum(again.counts))
    found = 0
    for kind, bounds in kept.items():
        bounds = token[bounds]
        read = bounds[:, 0] < bounds[:, 1]  # else the tokenizer reads nothing of it
        dropped += int((~read).sum())
        found += 0 if kind == "word" else int(read.sum())
        _mark(marks, kind, bounds[read])
    return Marked(marks, found, dropped)


def _mark(marks: np.ndarray, kind: str, bounds: np.ndarray) -> None:
    start, inside = _BITS[kind]
    covered = _covered(bounds, len(marks))
    if kind == "word":
        marks[covered] &= np.uint8(~Mark.WORD & 0xFF)
    marks[covered] |= np.uint8(inside)
    marks[bounds[:, 0]] |= np.uint8(start)


def _fitting(
    whole: str, begins: np.ndarray, spans: Sequence[Sequence[Found]]
) -> tuple[dict[str, np.ndarray], int]:
    """Bounds [n, 2] in `whole` by kind, none overlapping; how many were dropped."""
    may_cut = cuts(whole)
    kept = {kind: np.empty((0, 2), np.int64) for kind in _BITS}
    dropped = 0
    for of_finder in spans:
        every = list(itertools.chain.from_iterable(of_finder))
        starts, ends, kinds = zip(*every, strict=True) if every else ((), (), ())
        bounds = np.array([starts, ends], np.int64).T
        bounds += np.repeat(begins, [len(each) for each in of_finder])[:, None]
        numbers = np.fromiter(map(_NUMBER.__getitem__, kinds), np.int8, len(kinds))
        fits = may_cut[bounds].all(axis=1)
        dropped += int((~fits).sum())
        for kind, before in kept.items():
            each = bounds[fits & (numbers == _NUMBER[kind])]
            taken = np.append(0, np.cumsum(_covered(before, len(whole) + 1)))
            free = taken[each[:, 1]] == taken[each[:, 0]]
            kept[kind] = np.concatenate([before, each[free]])
    return kept, dropped


def _covered(bounds: np.ndarray, size: int) -> np.ndarray:
    """bool [size]: places inside one of [first, end)."""
    edge = np.zeros(size + 1, np.int64)
    np.add.at(edge, bounds[:, 0], 1)
    np.add.at(edge, bounds[:, 1], -1)
    return np.cumsum(edge)[:-1] > 0
