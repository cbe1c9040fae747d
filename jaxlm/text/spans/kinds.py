"""A span of characters, and what finds spans."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["word", "phrase", "entity"]


class Span(NamedTuple):
    """text[start:end] and what it is."""

    start: int
    end: int
    kind: Kind


# It is given one text at a time, so that its spans depend on no other text.
Finder = Callable[[str], Sequence[tuple[int, int, Kind]]]
