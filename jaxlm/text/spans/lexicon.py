"""A user's list of entities: file → `Lexicon`, text → spans."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jaxlm.text.spans.kinds import Span
from jaxlm.text.spans.marks import cuts
from jaxlm.types import UserError


class Lexicon:
    """Finds the longest entry at each place, from left to right.

    Case matters; in a script with spaces only whole words are found.
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
    """The lexicon in a file with an entity a line.

    What follows a tab is ignored (THUOCL has counts there).

    Raises:
        UserError: the file cannot be read, or a line is empty or repeats another.
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
    """Digest of the entries, whatever else the file holds."""
    entries = "\n".join(sorted(read_lexicon(path).entries))
    return hashlib.sha256(entries.encode()).hexdigest()
