"""Fragments → units of tokens: 64 MB of whole documents, each a file.

    fragments ─ in_blocks ─ tokenise, in any number of processes ─ joined ─ save ─ file

The files depend on the text and the recipe alone, so an interrupted job continues after
the last of them. Worker processes import this module: it does not need TensorStore.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.text.documents import Fragment
from jaxlm.text.recipe import Recipe
from jaxlm.text.spans import Finder, Marked, mark_spans, open_finders
from jaxlm.text.texts import texts_of
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.text.tokenizers.word_vocab import UNKNOWN_ID
from jaxlm.types import Mark, UserError

BLOCK = 1 << 20  # bytes of text that are tokenised at a time
UNIT = 64 << 20  # bytes of text in a unit, which ends with a document
ARRAYS = ("tokens", "marks", "sentences", "documents")


class Place(NamedTuple):
    """Where a unit begins in the text."""

    source: int  # by number; that of no source: the end of the text
    offset: int  # of a fragment that starts a document


START = Place(0, 0)


class Unit(NamedTuple):
    """The tokens of consecutive fragments; offsets count from the first token."""

    tokens: np.ndarray  # uint16 or uint32 [n]
    marks: np.ndarray  # uint8 [n]
    sentences: np.ndarray  # int64 [m], token offsets
    documents: np.ndarray  # int64 [d, 3]: token offset, language, split
    oov_words: Sequence[str]  # the words of ids from `vocab_size` on
    counts: Counter[str]  # text_bytes, replaced, spans, spans_dropped


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """uint16 if all ids are sure to fit, else uint32."""
    fits = tokenizer.vocab_size <= 1 << 16 and not tokenizer.keeps_oov_words
    return np.dtype(np.uint16 if fits else np.uint32)


def hashed(data: bytes, seed: int, name: str) -> float:
    """A number in [0, 1) that depends on `data`, `seed` and `name`."""
    key = f"{seed}/{name}".encode()
    digest = hashlib.blake2b(data, digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def split_of(start: bytes, recipe: Recipe) -> int:
    """1 (held out) or 0, by the hash of a document's first fragment."""
    if not recipe.holdout:
        return 0
    return int(hashed(start, recipe.seed, "holdout") < recipe.holdout)


def tokenise(
    fragments: Sequence[Fragment],
    tokenizer: Tokenizer,
    recipe: Recipe,
    finders: Sequence[Finder] = (),
) -> Unit:
    """The tokens of some fragments; `finders` are the recipe's.

    Raises:
        UserError: a fragment cannot be read.
    """
    found = [texts_of(fragment, recipe) for fragment in fragments]
    texts = [text for each in found for text in each.texts]
    given = [spans for each in found for spans in each.spans or ()]
    second = [speaker for each in found for speaker in each.second or ()]
    ids, word_start, lengths, oov_words = tokenizer.encode_flat(texts)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sentences = starts[:-1][lengths > 0]
    if recipe.verbatim and len(ids):
        ends_line = tokenizer.ends_line[ids[:-1]]
        sentences = np.union1d(sentences, np.flatnonzero(ends_line) + 1)
    marked = Marked(word_start * np.uint8(Mark.WORD), 0, 0)
    if finders or given:
        with _uncollected():
            spans: list[Sequence] = [[find(text) for text in texts] for find in finders]
            spans += [given] if given else []
            marked = mark_spans(texts, ids, lengths, word_start, tokenizer, spans)
            del spans
    marks = marked.marks
    marks[sentences] |= np.uint8(Mark.SENTENCE)
    if second:
        marks[np.repeat(second, lengths)] |= np.uint8(Mark.SPEAKER)
    documents = np.array(
        [
            (first, recipe.languages.index(each.language), split_of(each.data, recipe))
            for each, first in zip(
                fragments, _running([len(each.texts) for each in found]), strict=True
            )
            if each.starts
        ],
        np.int64,
    ).reshape(-1, 3)
    documents[:, 0] = starts[documents[:, 0]]
    counts = Counter(
        text_bytes=sum(len(fragment.data) for fragment in fragments),
        replaced=sum(each.replaced for each in found),
        spans=marked.found,
        spans_dropped=marked.dropped + sum(each.dropped for each in found),
    )
    tokens = ids.astype(token_dtype(tokenizer))
    return Unit(tokens, marks, sentences.astype(np.int64), documents, oov_words, counts)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector: a million spans have no cycles, and looking for
    them takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _running(sizes: Iterable[int]) -> np.ndarray:
    """Where each of consecutive parts of these sizes begins."""
    return np.cumsum([0, *sizes])[:-1]


def joined(parts: Sequence[Unit], tokenizer: Tokenizer) -> Unit:
    """The parts of a unit as one: whole documents, without the empty ones.

    An end-of-document token follows each document if the tokenizer has one.
    """
    words: dict[str, int] = {}
    vocab_size, end = tokenizer.vocab_size, tokenizer.end_of_document
    tokens = [renumbered(p.tokens, p.oov_words, words, vocab_size) for p in parts]
    at = _running(map(len, tokens))
    tokens = np.concatenate(tokens)
    marks = np.concatenate([part.marks for part in parts])
    sentences = np.concatenate([part.sentences for part in parts])
    sentences += np.repeat(at, [len(part.sentences) for part in parts])
    documents = np.concatenate([part.documents for part in parts])
    documents[:, 0] += np.repeat(at, [len(part.documents) for part in parts])
    ends = np.append(documents[:, 0], len(tokens))[1:]
    documents = documents[documents[:, 0] < ends]
    marks[documents[:, 0]] |= np.uint8(Mark.DOCUMENT)
    if end is not None:
        ends = np.append(documents[:, 0], len(tokens))[1:]
        tokens = np.insert(tokens, ends, end)
        marks = np.insert(marks, ends, np.uint8(Mark.WORD))
        sentences = sentences + np.searchsorted(ends, sentences, side="right")
        documents[:, 0] += np.arange(len(documents))
    counts = sum((part.counts for part in parts), Counter())
    return Unit(tokens, marks, sentences, documents, tuple(words), counts)


def renumbered(
    tokens: np.ndarray,
    oov_words: Sequence[str],
    words: dict[str, int],
    vocab_size: int,
    most: int = 1 << 62,
) -> np.ndarray:
    """`tokens` with their words outside the vocabulary numbered as in `words`.

    New words are added to `words` while it has fewer than `most`; others are unknown.
    """
    if not len(oov_words):
        return tokens
    ids = np.arange(vocab_size + len(oov_words))
    for i, word in enumerate(oov_words, vocab_size):
        if len(words) < most:
            words.setdefault(word, len(words))
        ids[i] = vocab_size + words[word] if word in words else UNKNOWN_ID
    return ids[tokens].astype(tokens.dtype)


def in_blocks(
    text: Iterable[tuple[int, Fragment]], num_sources: int
) -> Iterator[tuple[list[Fragment], Place | None]]:
    """Lists of about `BLOCK` bytes of fragments, and what follows where a unit ends.

    Args:
        text: (number of its source, fragment), from the start of a unit.
        num_sources: number that no source has, of the place where the text ends.
    """
    block: list[Fragment] = []
    size = unit = 0
    for number, fragment in text:
        ends_unit = unit >= UNIT and fragment.starts
        if block and (size >= BLOCK or ends_unit):
            yield block, Place(number, fragment.offset) if ends_unit else None
            block, size = [], 0
            unit = 0 if ends_unit else unit
        block.append(fragment)
        size += len(fragment.data)
        unit += len(fragment.data)
    if block:
        yield block, Place(num_sources, 0)


def save(unit: Unit, follows: Place, path: Path) -> None:
    """Write a unit and the place where the next one begins, whole or not at all."""
    counts = unit.counts + Counter(
        tokens=len(unit.tokens),
        sentences=len(unit.sentences),
        documents=len(unit.documents),
        held_out=int(unit.documents[:, 2].sum()),
    )
    header = {"follows": follows, "counts": counts, "oov_words": unit.oov_words}
    arrays = {name: getattr(unit, name) for name in ARRAYS}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    fresh = path.with_suffix(".new")
    with open(fresh, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


class StoredUnit:
    """A unit in a file; an array is read when it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        header = json.loads(self.read("header").tobytes())
        self.follows = Place(*header["follows"])
        self.counts: Counter[str] = Counter(header["counts"])
        self.oov_words: list[str] = header["oov_words"]

    def read(self, name: str) -> np.ndarray:
        """One of the unit's arrays."""
        with np.load(self._path) as file:
            return file[name]


class _Worker:
    """What a process needs to tokenise, loaded once."""

    def __init__(self, directory: Path, recipe: Recipe):
        self.recipe, self.tokenizer = recipe, load_tokenizer(directory)
        self.finders = open_finders(recipe.spans, recipe.lexicon)

    def __call__(self, fragments: list[Fragment]) -> Unit:
        return tokenise(fragments, self.tokenizer, self.recipe, self.finders)


_worker: _Worker | None = None  # of a worker process


def _start(directory: Path, recipe: Recipe) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller
    threading.Thread(target=_end_with_caller, daemon=True).start()
    _worker = _Worker(directory, recipe)


def _end_with_caller() -> None:
    """A caller that is killed cannot tell its workers to stop."""
    caller = multiprocessing.parent_process()
    assert caller is not None
    caller.join()
    os._exit(1)


def _work(fragments: list[Fragment]) -> Unit:
    assert _worker is not None
    return _worker(fragments)


def tokenise_all(
    blocks: Iterable[list[Fragment]], directory: Path, recipe: Recipe, processes: int
) -> Generator[Unit, None, None]:
    """The tokens of each list of fragments, in their order.

    Args:
        blocks: at most `processes` of them are taken ahead.
        directory: where the tokenizer was saved.
        recipe: how the text is read.
        processes: 1: this one; else so many others are started.

    Raises:
        UserError: a fragment cannot be read, or a process was killed.
    """
    if processes == 1:
        yield from map(_Worker(directory, recipe), blocks)
        return
    # Fresh interpreters, not forks: the caller may have threads.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (directory, recipe)
    )
    waiting: deque = deque()
    try:
        for block in blocks:
            if len(waiting) == processes:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_work, block))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process of prepare was killed: run it again, it continues; with fewer "
            "--processes if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
