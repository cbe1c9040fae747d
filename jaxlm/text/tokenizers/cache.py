"""What was worked out for a word, remembered: words recur, and the work is costly."""

from __future__ import annotations

from collections.abc import Callable

REMEMBERED = 1 << 17  # words kept; the memory is emptied when it is full
LONGEST = 200  # characters of a word that is kept


class Cache(dict):
    """Word → ids, for the last `REMEMBERED` or more words."""

    def __init__(self, work_out: Callable[[str], tuple[int, ...]]):
        super().__init__()
        self.work_out = work_out
        self.older: dict[str, tuple[int, ...]] = {}

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= REMEMBERED:
            self.older = dict(self)
            self.clear()
        ids = self.older.get(word)
        if ids is None:
            ids = self.work_out(word)
        if len(word) <= LONGEST:
            self[word] = ids
        return ids
