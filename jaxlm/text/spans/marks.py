"""Spans of characters → marks of tokens: aligned, or dropped and counted.

    哈尔滨是黑龙江的省会            each ideograph a token
    `----' `----'   `--'
    entity  entity   word, phrase

A span is dropped unless it consists of whole words of the tokenizer (an ideograph is a
word): BERT's rules must cut at both its ends in any context, so that cutting the text
there does not change the tokens.
"""

import functools
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxlm.text.tokenizers.tokenizer import Encoded, Tokenizer
from jaxlm.text.tokenizers.words import IDEOGRAPH
from jaxlm.types import Mark

Kind = Literal["word", "phrase", "entity"]
# The bit of a span's first token, and of all of them.
_BITS = {
    "word": (Mark.WORD, Mark(0)),
    "phrase": (Mark.PHRASE, Mark.IN_PHRASE),
    "entity": (Mark.ENTITY, Mark.IN_ENTITY),
}


class Span(NamedTuple):
    """A span text[start:end] and its kind."""

    start: int
    end: int
    kind: Kind


Spans = Sequence[tuple[int, int, Kind]]  # of one text
Found = Sequence[Spans]  # of each text, by one finder
Finder = Callable[[str], Spans]  # of one text alone: its spans depend on no other


class Marked(NamedTuple):
    """The marks of the tokens of some texts, and counts of their spans."""

    marks: np.ndarray  # uint8 [n]: bits of words, phrases and entities
    found: int  # phrases and entities that are marked
    dropped: int  # spans that lie across the tokenizer's words


@functools.cache
def joins(char: str) -> bool:
    """Whether a character can be part of a longer word of the tokenizer."""
    if char.isascii():
        return char.isalnum()
    alone = char.isspace() or unicodedata.category(char)[0] in "PZ"
    return not alone and not IDEOGRAPH.match(char)


def cuts(text: str) -> np.ndarray:
    """bool [len(text) + 1]: whether BERT's rules always cut before each character."""
    joined = np.fromiter(map(joins, text), bool, len(text))
    out = np.ones(len(text) + 1, bool)
    out[1:-1] = ~(joined[:-1] & joined[1:])
    return out


def mark_spans(
    texts: Sequence[str], encoded: Encoded, tokenizer: Tokenizer, spans: list[Found]
) -> Marked:
    """The marks of the tokens of `texts`, including word starts.

    A span of kind "word" is one word: only its first token keeps a word start. `spans`
    has the spans of each finder, the most trusted finder first.
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
    marks = encoded.word_start * np.uint8(Mark.WORD)
    if not np.array_equal(again.ids, encoded.ids):
        # A rule of the tokenizer that `cuts` does not know: in which text?
        if len(texts) == 1:
            return Marked(marks, 0, dropped + sum(map(len, kept.values())))
        alone = ([[each] for each in of_finder] for of_finder in spans)
        parts = [
            mark_spans([text], tokenizer.encode_flat([text]), tokenizer, found)
            for text, *found in zip(texts, *alone, strict=True)
        ]
        joined = np.concatenate([part.marks for part in parts])
        found = sum(part.found for part in parts)
        return Marked(joined, found, sum(part.dropped for part in parts))
    token = np.zeros(len(whole) + 1, np.int64)  # the first one at or after an edge
    token[edges] = np.append(0, np.cumsum(again.counts))
    found = 0
    for kind, places in kept.items():
        bounds = token[places]
        # The tokenizer may read nothing of a span.
        bounds = bounds[bounds[:, 0] < bounds[:, 1]]
        dropped += len(places) - len(bounds)
        found += 0 if kind == "word" else len(bounds)
        start, inside = _BITS[kind]
        covered = _covered(bounds, len(marks))
        if kind == "word":
            marks[covered] &= np.uint8(~Mark.WORD & 0xFF)
        marks[covered] |= np.uint8(inside)
        marks[bounds[:, 0]] |= np.uint8(start)
    return Marked(marks, found, dropped)


def _fitting(
    whole: str, begins: np.ndarray, spans: list[Found]
) -> tuple[dict[str, np.ndarray], int]:
    """(kind → non-overlapping bounds [n, 2] in `whole`, number of dropped spans)."""
    may_cut = cuts(whole)
    kept = {kind: np.empty((0, 2), np.int64) for kind in _BITS}
    dropped = 0
    for of_finder in spans:
        every = list(itertools.chain.from_iterable(of_finder))
        bounds = np.array([each[:2] for each in every], np.int64).reshape(-1, 2)
        bounds += np.repeat(begins, [len(each) for each in of_finder])[:, None]
        kinds = np.array([each[2] for each in every], "U6")
        fits = may_cut[bounds].all(axis=1)
        dropped += int((~fits).sum())
        for kind, before in kept.items():
            each = bounds[fits & (kinds == kind)]
            taken = np.append(0, np.cumsum(_covered(before, len(whole) + 1)))
            free = taken[each[:, 1]] == taken[each[:, 0]]
            kept[kind] = np.concatenate([before, each[free]])
    return kept, dropped


def _covered(bounds: np.ndarray, size: int) -> np.ndarray:
    """bool [size]: whether each position is inside some [first, end) of `bounds`."""
    edge = np.zeros(size + 1, np.int64)
    np.add.at(edge, bounds[:, 0], 1)
    np.add.at(edge, bounds[:, 1], -1)
    return np.cumsum(edge)[:-1] > 0
