"""Position → the rows that the host reads for a step, by Grain. Next: `sharding.py`.

Everything here is a pure function of (corpus, seed, stream, position). Pass p of a
stream holds every window once, in an order keyed by (seed, stream, p). So resuming
needs a step number only, and any number of threads or hosts reads the same rows. With
several languages, each has its own passes, and `mixing.py` tells the language of a row.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import grain
import numpy as np

from jaxlm.config import RunConfig
from jaxlm.data.bilm_rows import BilmSource, open_bilm_source, read_bilm_rows
from jaxlm.data.chance import hashes, permuted
from jaxlm.data.layouts import TURNS, document_ends, plan, stream_extents
from jaxlm.data.mixing import languages_of, rows_a_block
from jaxlm.text.corpus import Corpus
from jaxlm.text.languages import smoothed
from jaxlm.types import DialogueRows, Layout, Rows, TokenSpan, UserError, WordRows

T = TypeVar("T")


class RowSource(NamedTuple):
    """A split of a corpus, in rows of one length."""

    corpus: Corpus
    windows: np.ndarray  # int64 [windows], from `layouts.plan`
    first: np.ndarray  # int64 [d], first token of each document (stream: piece)
    end: np.ndarray  # int64 [d], the token after its last
    before: np.ndarray  # int64 [d], tokens of the documents before it
    width: int  # tokens of a span
    layout: Layout
    draws: int
    seed: int
    stream: str
    shuffle: bool  # False: the plan's own order, once (evaluation)
    begins: np.ndarray  # int64 [languages + 1], start of each language, as `windows`
    bounds: np.ndarray  # int64 [languages + 1], windows before each language
    members: np.ndarray  # int64 [languages + 1], documents before each language
    counts: np.ndarray  # int64 [languages], from `mixing.rows_a_block`
    second: Literal["any", "same"]  # language of the second span of a pair

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        return len(self.windows)


def open_rows(
    config: RunConfig,
    corpus: Corpus,
    layout: Layout,
    *,
    split: int,
    length: int,
    batch: int,
    stream: str,
    shuffle: bool = True,
    limit: int = 0,
) -> RowSource | BilmSource:
    """The rows that a run reads from a corpus, in the layout of its objective.

    Args:
        split: 0 training documents, 1 held out.
        stream: name of the phase; each has its own order and its own chance.
        shuffle: a new order in each pass.
        limit: most rows; 0: all.

    Raises:
        UserError: the corpus or its split does not fit this layout.
    """
    data: Any = config.data
    if layout == "bilm":
        model: Any = config.model
        if len(corpus.language_tokens(split)) > 1:
            raise UserError(
                f"corpus {corpus.directory} is of several languages, and an ELMo, whose"
                " rows go on from batch to batch, reads one: prepare a corpus of each"
            )
        return open_bilm_source(
            corpus,
            split=split,
            length=length,
            batch=batch,
            seed=config.seed,
            stream=stream,
            slots=model.max_characters,
            shuffle=shuffle,
            limit=limit,
            carry=data.carry,
        )
    masked = layout != "stream"
    return open_source(
        corpus,
        split=split,
        length=length,
        layout=layout,
        seed=config.seed,
        stream=stream,
        draws=data.draws if masked and shuffle else 0,
        shuffle=shuffle,
        limit=limit,
        smoothing=config.smoothing,
        second=data.second if masked else "any",
    )


def open_source(
    corpus: Corpus,
    *,
    split: int,
    length: int,
    layout: Layout,
    seed: int,
    stream: str,
    draws: int = 0,
    shuffle: bool = True,
    limit: int = 0,
    smoothing: float = 1.0,
    second: Literal["any", "same"] = "any",
) -> RowSource:
    """Plan a split of a corpus as rows of `length` tokens; see `open_rows`.

    Args:
        layout: "pairs", with a second span from another document, for NSP; "blocks";
            "stream", documents end to end, with the token before each row; "dialogues",
            turns, and one turn of another dialogue.
        draws: draws of a window's chance before they repeat; 0: always fresh.
        limit: most windows, evenly spaced over the plan; 0: all.
        smoothing: exponent of the languages' shares of tokens, see `smoothed`.
        second: language of the second span of a pair: any, or that of the first.

    Raises:
        UserError: the split or one of its languages is empty; pairs have a single
            document; a stream's documents have no end token.
    """
    inside = corpus.documents[:, 2] == split
    if layout == "stream" and corpus.end_of_document is None:
        raise UserError(
            f"corpus {corpus.directory} has no end-of-text token after its documents, "
            "which a decoder needs: prepare it again, with a decoder's recipe and a "
            "vocabulary that has <|endoftext|>"
        )
    paired = layout in ("pairs", "dialogues")
    if paired and np.sum(inside) == 1:
        remedy = "separate documents by blank lines, or train without it (--model.nsp "
        remedy = "add some" if layout == "dialogues" else f"{remedy}false)"
        raise UserError(
            f"corpus {corpus.directory} has 1 document in split {split}, and next-"
            f"sentence prediction draws from another one: {remedy}"
        )
    windows = plan(corpus, split, layout, length)
    if 0 < limit < len(windows):
        windows = windows[np.arange(limit) * len(windows) // limit]
    first, end = corpus.documents[inside, 0], document_ends(corpus)[inside]
    tokens = corpus.language_tokens(split)
    members = np.searchsorted(corpus.documents[inside, 1], np.arange(len(tokens) + 1))
    if layout == "stream":
        begins = np.append(0, np.cumsum(tokens))
        first, end = stream_extents(corpus, split)
    else:
        begins = np.append(first, end[-1])[members]
    bounds = np.searchsorted(windows, begins)
    if len(tokens) > 1:
        alone = np.diff(members) < 2 if paired and second == "same" else None
        _check_languages(corpus, split, np.diff(bounds) < 1 if shuffle else None, alone)
    # A chunk ends with the sentence that reaches the target. Twice the length holds it,
    # unless a sentence has more than `length` tokens.
    widths = {"pairs": 2 * length, "blocks": length - 2, "stream": length + 1}
    width = widths.get(layout, length - 2)
    return RowSource(
        corpus=corpus,
        windows=windows,
        first=first,
        end=end,
        before=np.cumsum(end - first) - (end - first),
        width=width,
        layout=layout,
        draws=draws,
        seed=seed,
        stream=stream,
        shuffle=shuffle,
        begins=begins,
        bounds=bounds,
        members=members,
        counts=rows_a_block(smoothed(tokens, smoothing)),
        second=second,
    )


def _check_languages(
    corpus: Corpus, split: int, absent: np.ndarray | None, alone: np.ndarray | None
) -> None:
    """Raise UserError for a language without rows, or without two documents."""
    for lacking, what in (
        (absent, "no row"),
        (alone, "1 document, and data.second = same draws from another one,"),
    ):
        if lacking is not None and lacking.any():
            language = corpus.manifest.languages[int(lacking.argmax())]
            raise UserError(
                f"corpus {corpus.directory} has {what} of the language {language} in "
                f"split {split}: prepare it with more of its text, or another --holdout"
            )


def read_rows(
    source: RowSource | BilmSource, rows: np.ndarray
) -> Rows | WordRows | DialogueRows:
    """The rows with these numbers, int64 [B], counted from the start of the stream.

    Past the end of an unshuffled source, rows repeat its last window and are not valid.
    """
    if isinstance(source, BilmSource):
        return read_bilm_rows(source, rows)
    return _read_rows(source, rows)


def _read_rows(source: RowSource, rows: np.ndarray) -> Rows | DialogueRows:
    several = len(source.counts) > 1
    passes, places = np.divmod(rows, source.rows)
    valid = np.ones(len(rows), bool)
    name = f"{source.stream}/order"
    if source.shuffle and several:
        language, nth = languages_of(rows, source.counts, source.seed, source.stream)
        sizes = np.diff(source.bounds)[language]
        passes, places = np.divmod(nth, sizes)
        keys = hashes(source.seed, name, passes, language)
        window = source.bounds[language] + permuted(places, sizes, keys)
    elif source.shuffle:
        keys = hashes(source.seed, name, passes)
        window = permuted(places, source.rows, keys)
    else:
        window = np.where(passes == 0, places, source.rows - 1)
        valid = passes == 0
    if source.draws:
        row_key = np.stack([window, passes % source.draws], axis=1)
    elif source.shuffle:
        row_key = np.stack([rows >> 32, rows & 0xFFFFFFFF], axis=1)
    else:
        row_key = np.stack([window, np.zeros_like(window)], axis=1)
    row_key = row_key.astype(np.uint32)

    starts = np.asarray(source.windows[window])
    language = np.searchsorted(source.begins, starts, side="right") - 1
    languages = language.astype(np.int32) if several else None
    if source.layout == "stream":
        return Rows(_stitched(source, starts), None, row_key, valid, languages)
    document = np.searchsorted(source.first, starts, side="right") - 1
    if source.layout == "dialogues":
        turns = _turns(source, starts, source.end[document])
        _, start = _second_candidates(source, document, language, row_key)
        other = _turns(source, start, None)
        return DialogueRows(turns, other, row_key, valid, languages)
    second = None
    if source.layout == "pairs":
        other, start = _second_candidates(source, document, language, row_key)
        second = _span(source, start, source.end[other])
    return Rows(
        first=_span(source, starts, source.end[document]),
        second=second,
        row_key=row_key,
        valid=valid,
        languages=languages,
    )


def _span(source: RowSource, starts: np.ndarray, ends: np.ndarray) -> TokenSpan:
    length = np.minimum(ends - starts, source.width)
    tokens, marks = source.corpus.read(starts, source.width, length)
    return TokenSpan(tokens, marks, length.astype(np.int32))


def _turns(source: RowSource, starts: np.ndarray, ends: np.ndarray | None) -> TokenSpan:
    """The turns from `starts` to `ends`, [B, TURNS, W]; one, [B, W], without `ends`."""
    sentences = source.corpus.sentences
    count = 1 if ends is None else TURNS
    nth = np.searchsorted(sentences, starts)[:, None] + np.arange(count + 1)
    past = nth >= len(sentences)
    bounds = np.where(past, source.corpus.num_tokens, sentences[np.where(past, 0, nth)])
    if ends is not None:
        bounds = np.minimum(bounds, ends[:, None])
    begins = bounds[:, :-1].ravel()
    length = np.minimum(np.diff(bounds).ravel(), source.width)
    tokens, marks = source.corpus.read(begins, source.width, length)
    shape = (len(starts),) if ends is None else (len(starts), count)
    return TokenSpan(
        tokens.reshape(*shape, -1),
        marks.reshape(*shape, -1),
        length.astype(np.int32).reshape(shape),
    )


def _stitched(source: RowSource, windows: np.ndarray) -> TokenSpan:
    """Tokens of the stream, from the one before each window.

    Documents of the other split are skipped, so a row may consist of several pieces of
    the corpus. All pieces are read together and copied to their places.
    """
    # The stream has one extra token in front, so the token before a window is at index
    # `windows`; a row ends with the stream at the latest.
    ends = source.before + source.end - source.first
    end = np.minimum(windows + source.width, ends[-1])
    low = np.searchsorted(ends, windows, side="right")
    pieces = np.searchsorted(source.before, end, side="left") - low
    row = np.repeat(np.arange(len(windows)), pieces)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    of = low[row] + nth
    start = np.maximum(source.before[of], windows[row])
    length = np.minimum(ends[of], end[row]) - start

    width = int(length.max(initial=0))
    first = source.first[of] + start - source.before[of]
    parts = source.corpus.read(first, width, length)
    inside = np.arange(width) < length[:, None]
    at = (row * source.width + start - windows[row])[:, None] + np.arange(width)
    shape = len(windows), source.width
    tokens, marks = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    for out, part in zip((tokens, marks), parts, strict=True):
        out.reshape(-1)[at[inside]] = part[inside]
    return TokenSpan(tokens, marks, (end - windows).astype(np.int32))


def _second_candidates(
    source: RowSource, document: np.ndarray, language: np.ndarray, row_key: np.ndarray
):
    """For each row a uniform other document and a uniform sentence in it."""
    stream = f"{source.stream}/second"
    which = hashes(source.seed, stream, *row_key.T)
    where = hashes(source.seed, f"{stream}/sentence", *row_key.T)
    low, high = source.members[0], source.members[-1]
    if source.second == "same":
        low, high = source.members[language], source.members[language + 1]
    others = np.asarray(high - low - 1, np.uint64)
    other = low + (which % others).astype(np.int64)
    other += other >= document
    sentences = source.corpus.sentences
    begin = np.searchsorted(sentences, source.first[other])
    end = np.searchsorted(sentences, source.end[other])
    pick = begin + (where % (end - begin).astype(np.uint64)).astype(np.int64)
    return other, np.asarray(sentences[pick])


def batches(
    source: RowSource | BilmSource,
    batch: int,
    local: np.ndarray,
    *,
    start: int,
    stop: int,
    threads: int,
) -> Iterator[Rows | WordRows | DialogueRows]:
    """This host's rows of the global batches `start` … `stop` - 1, read ahead.

    `local` are the rows of a batch that this host's devices hold, from `local_rows`.
    """
    return ahead(
        lambda step: read_rows(source, step * batch + local),
        start=start,
        stop=stop,
        threads=threads,
    )


def ahead(
    read: Callable[[int], T], *, start: int, stop: int, threads: int
) -> Iterator[T]:
    """`read(step)` for `start` … `stop` - 1, in order, read ahead by threads."""
    steps = grain.MapDataset.range(start, stop).map(lambda step: read(int(step)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(steps.to_iter_dataset(options))
