"""Row numbers of a step → the rows that a host reads. Next: `layouts.py`.

Rows are a pure function of (corpus, seed, stream, position). Pass p of a stream holds
every window once, in an order keyed by (seed, stream, p). So resuming needs only a step
number, and any number of threads or hosts reads the same rows.

Several languages are mixed in blocks of 65,536 rows, and each has its own passes:

    row        0  1  2  3  4  5  6  7  8  9  …  65,535 │ 65,536 …
    language   en en zh en fr en en zh en en           │ fr en en zh …
    nth        0  1  0  2  0  3  4  1  5  6            │

- *Unbiased*: a row has language i with probability `counts[i]` / 65,536, within
  1 / 65,536 of its share. Consecutive rows are a sample without replacement, closer to
  the shares than independent draws.
- *Resumable*: before block b, language i had exactly b · `counts[i]` rows. So the
  number of a row tells its language and its number within the language, on any host or
  thread.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import grain
import numpy as np

from jaxlm.config import MaskedData, Phase, RunConfig
from jaxlm.files import DamagedError, read_sealed, replacing
from jaxlm.keys import hashes, permuted
from jaxlm.text.corpus import Corpus
from jaxlm.text.languages import smoothed
from jaxlm.types import Layout, Rows, TokenSpan, UserError, WordRows

BLOCK = 1 << 16  # rows in which each language has its share

T = TypeVar("T")


@dataclass(eq=False)
class RowSource(ABC):
    """A split of a corpus, cut into rows of one length."""

    layout: ClassVar[Layout]
    documents_needed: ClassVar[int] = 1

    config: RunConfig
    corpus: Corpus
    phase: Phase  # length of the rows, and the batch that they are for
    stream: str  # name of the phase; each has its own order and its own draws
    split: int = 0  # 0: training documents, 1: held out
    shuffle: bool = True  # a new order in each pass; False: once, as the corpus has it
    limit: int = 0  # most rows; 0: all

    def __post_init__(self) -> None:
        # Of the split's documents: the table's rows, first tokens, and where they end.
        inside = self.corpus.documents[:, 2] == self.split
        ends = np.append(self.corpus.documents[1:, 0], self.corpus.num_tokens)
        self.documents = self.corpus.documents[inside]
        self.first, self.end = self.documents[:, 0], ends[inside]

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows in one pass."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> Rows | WordRows:
        """The rows with these numbers, int64 [B], counted from the stream's start.

        Past the end of an unshuffled source, rows are not valid.
        """


class WindowRows(RowSource):
    """Rows that begin at planned windows of the corpus.

    `bounds` and `members` count the windows and the documents before each language, and
    `begins` is the position where it begins: int64 [languages + 1] each.
    """

    @property
    def rows(self) -> int:
        """The number of rows in one pass."""
        return len(self.windows)

    @property
    @abstractmethod
    def width(self) -> int:
        """Most tokens of a span."""

    @abstractmethod
    def plan(self) -> np.ndarray:
        """The position of each window, int64 [rows], ascending."""

    @abstractmethod
    def spans(
        self, starts: np.ndarray, language: np.ndarray, row_key: np.ndarray
    ) -> tuple[TokenSpan, TokenSpan | None]:
        """The text of the windows at `starts`: `first` and `second` of `Rows`."""

    def positions(self) -> np.ndarray:
        """The position of each document and of the end, int64 [d + 1]."""
        return np.append(self.first, self.end[-1])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = spaced(self._cached_plan(), self.limit)
        tokens = self.corpus.language_tokens(self.split)
        self.members = np.searchsorted(self.documents[:, 1], np.arange(len(tokens) + 1))
        self.begins = self.positions()[self.members]
        self.bounds = np.searchsorted(self.windows, self.begins)
        self.counts = rows_a_block(smoothed(tokens, self.config.smoothing))
        if self.shuffle:
            self.check_languages(np.diff(self.bounds) > 0, "no row")

    def check_languages(self, fit: np.ndarray, lacks: str) -> None:
        """Refuse a corpus of several languages if one is False in `fit`."""
        if len(fit) > 1 and not fit.all():
            language = self.corpus.manifest.languages[int(fit.argmin())]
            raise UserError(
                f"corpus {self.corpus.directory} has {lacks} of the language {language}"
                f" in split {self.split}: prepare it with more of its text, or another "
                "--holdout"
            )

    def _cached_plan(self) -> np.ndarray:
        """The plan, memory-mapped from a file that the corpus's digest names.

        A damaged file is made again.
        If the corpus is read-only, the plan is made in memory each time.
        """
        corpus, split = self.corpus, self.split
        name = f"{corpus.sha256[:16]}-{split}-{self.layout}-{self.phase.length}.plan"
        cached = corpus.files / "plans" / name
        with suppress(DamagedError):
            return np.frombuffer(read_sealed(cached), "<i8")
        windows = self.plan()
        if not len(windows):
            which = "held-out" if split else "training"
            raise UserError(
                f"corpus {corpus.directory} has no {which} rows: "
                f"{len(self.documents)} documents are in that split"
            )
        try:
            cached.parent.mkdir(exist_ok=True)
            with replacing(cached, sealed=True) as file:
                file.write(np.ascontiguousarray(windows, "<i8").data)
            return np.frombuffer(read_sealed(cached), "<i8")
        except (OSError, DamagedError):
            return windows

    def read(self, rows: np.ndarray) -> Rows:
        """As `RowSource.read`; rows past the end repeat the last window."""
        several, valid = len(self.counts) > 1, np.ones(len(rows), bool)
        if self.shuffle:
            seed, stream = self.config.seed, self.stream
            language, nth = languages_of(rows, self.counts, seed, stream)
            sizes = np.diff(self.bounds)[language]
            passes, places = np.divmod(nth, sizes)
            name = (passes, language) if several else (passes,)
            keys = hashes(seed, f"{stream}/order", *name)
            window = self.bounds[language] + permuted(places, sizes, keys)
        else:
            passes, places = np.divmod(rows, self.rows)
            valid = passes == 0
            window = np.where(valid, places, self.rows - 1)
        draws, data, rates = 0, self.config.data, None
        if not self.shuffle:
            draws = 1
        elif isinstance(data, MaskedData):
            draws = data.draws
            rates = mask_rates(self.config, self.phase, rows // self.phase.batch)
        key = (window, passes % draws) if draws else (rows >> 32, rows & 0xFFFFFFFF)
        row_key = np.stack(key, axis=1).astype(np.uint32)
        starts = np.asarray(self.windows[window])
        language = np.searchsorted(self.begins, starts, side="right") - 1
        spans = self.spans(starts, language, row_key)
        languages = language.astype(np.int32) if several else None
        seeds = np.full(len(rows), self.config.seed, np.uint32)
        return Rows(*spans, seeds, row_key, valid, languages, rates)


def mask_rates(
    config: RunConfig, phase: Phase, batches: np.ndarray
) -> np.ndarray | None:
    """The mask rate of these batches of a phase, float32; None if no rate changes.

    Batches have the numbers that they have without `skip`.
    """
    data: Any = config.data
    first = last = phase.mask_rate
    if not phase.mask_rate:
        first, last = data.mask_rate, data.mask_rate_end
    if not last:
        return None
    ends = [each.until for each in config.all_phases if each.until < phase.until]
    done = (max(ends, default=0) + batches) / max(1, config.steps - 1)
    rates = first + (last - first) * np.minimum(done, 1)
    return np.asarray(rates, np.float32)


def spaced(windows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the windows, evenly spaced; 0: all."""
    if not 0 < limit < len(windows):
        return windows
    return windows[np.arange(limit) * len(windows) // limit]


def numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(each i `counts[i]` times, count within each i): 0 0 0 1 1 …, 0 1 2 0 1 …"""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def rows_a_block(shares: np.ndarray) -> np.ndarray:
    """The number of rows of each language in a block, rounded by largest remainders.

    `shares` is float64 [languages] and sums to 1; a share above 0 gets at least a row.
    """
    wanted = shares * BLOCK
    counts = np.maximum(np.floor(wanted), shares > 0).astype(np.int64)
    # Correct the languages that are farthest from their share.
    while missing := BLOCK - int(counts.sum()):
        sign = 1 if missing > 0 else -1
        may = (shares > 0) & (counts + sign > 0)
        far = np.where(may, sign * (wanted - counts), -np.inf)
        counts[np.argsort(-far, kind="stable")[: min(abs(missing), may.sum())]] += sign
    return counts


def languages_of(
    rows: np.ndarray, counts: np.ndarray, seed: int, stream: str
) -> tuple[np.ndarray, np.ndarray]:
    """(language, number of its earlier rows) of each row, int64 [B] both.

    `rows` are counted from the start of the stream; `counts` is from `rows_a_block`.
    """
    if len(counts) == 1:
        return np.zeros_like(rows), rows
    numbers, at = np.divmod(rows, BLOCK)
    language, nth = np.empty_like(rows), np.empty_like(rows)
    for number in np.unique(numbers):
        here = numbers == number
        block = _block(tuple(counts.tolist()), seed, stream, int(number))
        language[here], nth[here] = block[:, at[here]]
    return language, nth + numbers * counts[language]


@functools.lru_cache(maxsize=4)
def _block(counts: tuple[int, ...], seed: int, stream: str, number: int) -> np.ndarray:
    """(language, number of its earlier rows in the block), int64 [2, BLOCK]."""
    key = hashes(seed, f"{stream}/language", np.array([number]))
    places = permuted(np.arange(BLOCK), BLOCK, key)
    ends = np.cumsum(counts)
    language = np.searchsorted(ends, places, side="right")
    in_order = np.argsort(language, kind="stable")
    nth = np.empty(BLOCK, np.int64)
    nth[in_order] = np.arange(BLOCK) - (ends - counts)[language[in_order]]
    return np.stack([language, nth])


def ahead(
    read: Callable[[int], T], *, start: int, stop: int, threads: int
) -> Iterator[T]:
    """`read(step)` for `start` … `stop` - 1, in order, read ahead by threads."""
    steps = grain.MapDataset.range(start, stop).map(lambda step: read(int(step)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(steps.to_iter_dataset(options))
