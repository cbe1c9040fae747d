"""A text → tokens, each with the characters of the text that it stands for.

    text      Zürich's     北京
    tokens    zur ##ich ' s 北 京
    start     0   3     6 7 9 10
    end       3   6     7 8 10 11

Words are split by BERT's rules and ideographs one by one, so an answer is exact to the
character in any language. Lower-casing and stripped accents are followed character by
character. If the characters do not add up to a word's tokens ([UNK]), and for other
tokenizers than WordPiece, each token stands for its whole word.
"""

import itertools
import unicodedata
from typing import NamedTuple

import numpy as np

from jaxlm.text.spans.marks import cuts
from jaxlm.text.tokenizers import Tokenizer, WordPiece


class Aligned(NamedTuple):
    """Tokens of a text, int32 [l] each."""

    ids: np.ndarray
    start: np.ndarray  # first character
    end: np.ndarray  # after the last


def align(tokenizer: Tokenizer, text: str) -> Aligned:
    """The tokens of a text and their places in it."""
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
    """The characters of each piece of a word; None if they do not add up."""
    lengths = [len(piece.removeprefix("##")) for piece in pieces]
    owner = [
        i
        for i, char in enumerate(word)
        for _ in range(_token_characters(char, lowercase))
    ]
    if "[UNK]" in pieces or sum(lengths) != len(owner):
        return None
    ends = np.cumsum(lengths).tolist()
    first = [owner[end - length] for end, length in zip(ends, lengths, strict=True)]
    # A stripped accent belongs to the letter before it.
    last = [*first[1:], len(word)]
    return [(at + a, at + max(a + 1, b)) for a, b in zip(first, last, strict=True)]


def _token_characters(char: str, lowercase: bool) -> int:
    """How many characters of a token a character of the text becomes."""
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or char == "\ufffd":
        return 0
    if not lowercase:
        return 1
    spread = unicodedata.normalize("NFD", char.lower())
    return sum(unicodedata.category(each) != "Mn" for each in spread)
