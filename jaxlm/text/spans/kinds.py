"""The noun of this room: a span of characters, and what finds such spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["word", "phrase", "entity"]


class Span(NamedTuple):
    """Characters `start` … `end` - 1 of a text."""

    start: int
    end: int
    kind: Kind


# One text at a time, so that what is found in it depends on nothing beside it.
Finder = Callable[[str], Sequence[tuple[int, int, Kind]]]
