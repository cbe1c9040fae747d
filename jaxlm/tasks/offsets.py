"""A text → tokens, each with the characters of the text that it stands for.

    text      Zürich's     北京
    tokens    zur ##ich ' s 北 京
    start     0   3     6 7 9 10
    end       3   6     7 8 10 11

Words are cut by BERT's rules, ideographs each by itself, so an answer is exact to the
character in any language. Lower-casing and the loss of accents are followed character
by character; where that does not add up to a word's tokens ([UNK]), and for tokenizers
other than WordPiece, each token stands for its whole word.
"""

from __future__ import annotations

import itertools
import unicodedata
from typing import NamedTuple

import numpy as np

from jaxlm.text.spans import cuts
from jaxlm.text.tokenizers import Tokenizer, WordPiece


class Aligned(NamedTuple):
    """Tokens of a text, int32 [l] each."""

    ids: np.ndarray
    start: np.ndarray  # first character
    end: np.ndarray  # after the last


def align(tokenizer: Tokenizer, text: str) -> Aligned:
    """The tokens of a text and where they are in it."""
    at = np.flatnonzero(cuts(text)).tolist()
    bounds = [(a, b) for a, b in itertools.pairwise(at) if text[a:b].strip()]
    words = [text[a:b] for a, b in bounds]
    all_ids, _, counts, _ = tokenizer.encode_flat(words)
    starts, ends, done = [], [], 0
    for (a, b), count in zip(bounds, counts.tolist(), strict=True):
        spans = [(a, b)] * count
        if count > 1 and isinstance(tokenizer, WordPiece):
            pieces = [tokenizer.token(i) for i in all_ids[done : done + count]]
            spans = _inside(text[a:b], a, pieces, tokenizer.lowercase) or spans
        done += count
        starts += [start for start, _ in spans]
        ends += [end for _, end in spans]
    return Aligned(all_ids, np.array(starts, np.int32), np.array(ends, np.int32))


def _inside(
    word: str, at: int, pieces: list[str], lowercase: bool
) -> list[tuple[int, int]] | None:
    """Characters of each piece of a word; None where they do not add up."""
    lengths = [len(piece.removeprefix("##")) for piece in pieces]
    owner = [i for i, char in enumerate(word) for _ in range(_spelled(char, lowercase))]
    if "[UNK]" in pieces or sum(lengths) != len(owner):
        return None
    ends = np.cumsum(lengths).tolist()
    first = [owner[end - length] for end, length in zip(ends, lengths, strict=True)]
    # What a piece does not spell, an accent, goes with the letter before it.
    last = [*first[1:], len(word)]
    return [(at + a, at + max(a + 1, b)) for a, b in zip(first, last, strict=True)]


def _spelled(char: str, lowercase: bool) -> int:
    """How many characters of tokens a character of the text becomes."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or char == "\ufffd":
        return 0
    if not lowercase:
        return 1
    spread = unicodedata.normalize("NFD", char.lower())
    return sum(unicodedata.category(each) != "Mn" for each in spread)
