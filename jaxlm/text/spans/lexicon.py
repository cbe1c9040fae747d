"""A user's own entities, by a list: file → `Lexicon`, text → spans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jaxlm.text.spans.kinds import Span
from jaxlm.text.spans.marks import cuts
from jaxlm.types import UserError


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
