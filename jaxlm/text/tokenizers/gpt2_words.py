"""GPT-2's pattern by Python's `re`: text → the words that byte-level BPE never joins.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

(openai/gpt-2, src/encoder.py.) `re` knows no \\p{L}, and is slow where it is given all
letters there are: the classes hold those of the blocks of 256 characters that texts
have had so far, by `unicodedata`.

Another Unicode version may know more letters: a text with a letter or number that was
none in Unicode 3.2 (2002), or with a character that is not assigned now, has no words
here, and the `tokenizers` library must say.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import NamedTuple

_PATTERN = (
    r"'(?:s|t|re|ve|m|ll|d)| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
)


class _Known(NamedTuple):
    """What is known of some blocks; one for a text, whatever another thread learns."""

    chars: frozenset[str]
    unsure: frozenset[str]
    words: re.Pattern[str]


class Gpt2Words:
    """What cuts texts; it learns their characters as they come."""

    def __init__(self) -> None:
        self._known = _ASCII

    def __call__(self, text: str) -> list[str] | None:
        """The words of a text, joined the text; None: the library must say."""
        if text.isascii():
            return _ASCII.words.findall(text)
        known, chars = self._known, set(text)
        if fresh := chars - known.chars:
            known = self._known = _learnt(known.chars | fresh)
        if not chars.isdisjoint(known.unsure):
            return None
        return known.words.findall(text)


def _learnt(chars: frozenset[str]) -> _Known:
    """Of all characters of the blocks that these are of."""
    starts = sorted({ord(char) & ~0xFF for char in chars})
    every = [chr(start + i) for start in starts for i in range(256)]
    classes, unsure = {"S": "", "L": "", "N": ""}, []
    # In ranges inside a block: beyond U+FFFF `re` looks at one after another.
    for (_, kind), run in itertools.groupby(
        every, lambda char: (ord(char) >> 8, _kind(char))
    ):
        first, *_, last = [*run] * 2
        if kind == "unsure":
            unsure += map(chr, range(ord(first), ord(last) + 1))
        elif kind:
            classes[kind] += f"{re.escape(first)}-{re.escape(last)}"
    words = re.compile(_PATTERN.format_map(classes))
    return _Known(frozenset(every), frozenset(unsure), words)


def _kind(char: str) -> str:
    kind, before = unicodedata.category(char), unicodedata.ucd_3_2_0.category(char)
    if kind == "Cn" or (kind[0] in "LN" and kind[0] != before[0]):
        return "unsure"
    if kind[0] in "LN":
        return kind[0]
    return "S" if kind[0] == "Z" or char in "\t\n\x0b\x0c\r\x85" else ""


_ASCII = _learnt(frozenset("a"))
