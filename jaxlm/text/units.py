"""Fragments → units of tokens: files with about 64 MB of whole documents each.

    fragments ─ in_blocks ─ tokenise, in any number of processes ─ joined ─ save ─ file

The files depend only on the text and the recipe, so an interrupted job continues after
the last file. Worker processes import this module, so it does not import TensorStore.
"""

import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.files import check_sealed, replacing
from jaxlm.signals import ENDING
from jaxlm.text.documents import Fragment
from jaxlm.text.recipe import Recipe
from jaxlm.text.spans.finders import open_finders
from jaxlm.text.spans.marks import Finder, Marked, mark_spans
from jaxlm.text.texts import texts_of
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.text.tokenizers.words import MOST_OOV_WORDS, UNKNOWN_ID
from jaxlm.types import Mark, UserError

BLOCK = 1 << 20  # bytes of text that are tokenised at a time
UNIT = 64 << 20  # bytes of text in a unit, which ends with a document
# Prefixes of the counts that a unit keeps for each lexicon entry or language.
ENTRY, BYTES, IDEOGRAPHS = "entry ", "bytes ", "ideographs "
# First bytes, of three, of U+4000 to U+9FFF.
_IDEOGRAPHS = bytes(range(0xE4, 0xEA))
ARRAYS = ("tokens", "marks", "sentences", "documents")


class Place(NamedTuple):
    """The place in the text where a unit begins."""

    source: int  # its number; one past the last source: the end of the text
    offset: int  # of a fragment that starts a document


START = Place(0, 0)
Text = Iterable[tuple[int, Fragment]]  # with the number of its source
Block = tuple[list[Fragment], Place | None]  # the place follows the end of a unit


class Unit(NamedTuple):
    """The tokens of consecutive fragments; offsets count from the first token."""

    tokens: np.ndarray  # uint16 or uint32 [n]
    marks: np.ndarray  # uint8 [n]
    sentences: np.ndarray  # int64 [m], token offsets
    documents: np.ndarray  # int64 [d, 3]: token offset, language, split
    oov_words: Sequence[str]  # the words of ids from `vocab_size` on
    counts: Counter[str]  # text_bytes, replaced, spans …


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """uint16 if all ids are known to fit, else uint32."""
    fits = tokenizer.vocab_size <= 1 << 16 and not tokenizer.keeps_oov_words
    return np.dtype(np.uint16 if fits else np.uint32)


def hashed(data: bytes, seed: int, name: str) -> float:
    """A number in [0, 1) that depends on `data`, `seed` and `name`."""
    key = f"{seed}/{name}".encode()
    digest = hashlib.blake2b(data, digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def holdout_hash(start: bytes, recipe: Recipe) -> float:
    """The hash of a document's first fragment that decides its split."""
    return hashed(start, recipe.seed, "holdout")


def split_of(start: bytes, recipe: Recipe) -> int:
    """The split of the document with this first fragment: 1, held out, or 0."""
    below = recipe.held_below or recipe.holdout
    return int(bool(below) and holdout_hash(start, recipe) < below)


def tokenise(
    fragments: list[Fragment], tokenizer: Tokenizer, recipe: Recipe, *finders: Finder
) -> Unit:
    """The tokens of some fragments; `finders` are the recipe's."""
    found = [texts_of(fragment, recipe) for fragment in fragments]
    texts = [text for each in found for text in each.texts]
    given = [spans for each in found for spans in each.spans]
    second = [speaker for each in found for speaker in each.second]
    encoded = tokenizer.encode_flat(texts)
    ids, lengths = encoded.ids, encoded.counts
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sentences = starts[:-1][lengths > 0]
    if recipe.verbatim and len(ids):
        ends_line = tokenizer.ends_line[ids[:-1]]
        sentences = np.union1d(sentences, np.flatnonzero(ends_line) + 1)
    marked = Marked(encoded.word_start * np.uint8(Mark.WORD), 0, 0)
    spans: list[Sequence] = [[find(text) for text in texts] for find in finders]
    spans += [given] if given else []
    if spans:
        marked = mark_spans(texts, encoded, tokenizer, spans)
    marks = marked.marks
    marks[sentences] |= np.uint8(Mark.SENTENCE)
    if second:
        marks[np.repeat(second, lengths)] |= np.uint8(Mark.SPEAKER)
    first = starts[np.cumsum([0, *(len(each.texts) for each in found)])]
    places = [
        (at, recipe.languages.index(each.source.language), split_of(each.data, recipe))
        for each, at in zip(fragments, first[:-1].tolist(), strict=True)
        if each.starts
    ]
    unknown = encoded.word_start & _unknown(ids, tokenizer)
    counts = Counter(
        text_bytes=sum(len(fragment.data) for fragment in fragments),
        replaced=sum(each.replaced for each in found),
        spans=marked.found,
        spans_dropped=marked.dropped + sum(each.dropped for each in found),
        words=int(encoded.word_start.sum()),
        words_unknown=int(unknown.sum()),
    )
    if recipe.lexicon:  # the first finder is its
        for text, entries in zip(texts, spans[0], strict=True):
            counts.update(f"{ENTRY}{text[a:b]}" for a, b, _ in entries)
    for fragment, each in zip(fragments, found, strict=True):
        spelled = "".join(each.texts).encode()
        rest = spelled.translate(None, _IDEOGRAPHS)
        counts[f"{BYTES}{fragment.source.language}"] += len(spelled)
        counts[f"{IDEOGRAPHS}{fragment.source.language}"] += len(spelled) - len(rest)
    documents = np.array(places, np.int64).reshape(-1, 3)
    tokens, sentences = ids.astype(token_dtype(tokenizer)), sentences.astype(np.int64)
    return Unit(tokens, marks, sentences, documents, encoded.oov_words, counts)


def _unknown(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """bool [n]: the words outside the vocabulary."""
    if tokenizer.keeps_oov_words:
        return ids >= tokenizer.vocab_size
    unknown = tokenizer.id(tokenizer.special_names.get("[UNK]", ""))
    return ids == (-1 if unknown is None else unknown)


def joined(
    parts: Sequence[Unit], tokenizer: Tokenizer, start: int, words: dict[str, int]
) -> Unit:
    """The parts of a unit joined into one unit, without empty documents.

    An end-of-document token follows each document if the tokenizer has one. Earlier
    units have `start` tokens, and `words` has their words outside the vocabulary; new
    words are added to `words` and become the `oov_words` of this unit.
    """
    known, end = len(words), tokenizer.end_of_document
    tokens = np.concatenate([_numbered(part, tokenizer, words) for part in parts])
    marks = np.concatenate([part.marks for part in parts])
    at = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    sentences = np.concatenate([part.sentences for part in parts])
    sentences += np.repeat(at, [len(part.sentences) for part in parts])
    documents = np.concatenate([part.documents for part in parts])
    documents[:, 0] += np.repeat(at, [len(part.documents) for part in parts])
    documents = documents[np.diff(documents[:, 0], append=len(tokens)) > 0]
    marks[documents[:, 0]] |= np.uint8(Mark.DOCUMENT)
    if end is not None:
        ends = np.append(documents[:, 0], len(tokens))[1:]
        tokens = np.insert(tokens, ends, end)
        marks = np.insert(marks, ends, np.uint8(Mark.WORD))
        sentences += np.searchsorted(ends, sentences, side="right")
        documents[:, 0] += np.arange(len(documents))
    sentences += start
    documents[:, 0] += start
    counts = sum((part.counts for part in parts), Counter())
    counts.update(tokens=len(tokens), sentences=len(sentences))
    counts.update(documents=len(documents), held_out=int(documents[:, 2].sum()))
    new = tuple(itertools.islice(words, known, None))
    return Unit(tokens, marks, sentences, documents, new, counts)


def _numbered(part: Unit, tokenizer: Tokenizer, words: dict[str, int]) -> np.ndarray:
    """The tokens of a part, with words outside the vocabulary numbered by `words`."""
    if not part.oov_words:
        return part.tokens
    ids = np.arange(tokenizer.vocab_size + len(part.oov_words))
    for i, word in enumerate(part.oov_words, tokenizer.vocab_size):
        if len(words) < MOST_OOV_WORDS:
            words.setdefault(word, len(words))
        number = words.get(word)
        ids[i] = UNKNOWN_ID if number is None else tokenizer.vocab_size + number
    return ids[part.tokens].astype(part.tokens.dtype)


def in_blocks(text: Text, num_sources: int) -> Iterator[Block]:
    """`text` in blocks of about `BLOCK` bytes; `text` begins at the start of a unit."""
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
    """Write a unit, and the place where the next unit begins, whole or not at all."""
    header: dict[str, Any] = {"follows": follows, **unit._asdict()}
    arrays = {name: header.pop(name) for name in ARRAYS}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, sealed=True) as file:
        np.savez(file, **arrays)


class StoredUnit:
    """A unit in a file, whose arrays are read on request.

    DamagedError if the file was changed after it was written.
    """

    def __init__(self, path: Path):
        self._path = path
        check_sealed(path)
        header = json.loads(self.read("header").tobytes())
        self.follows = Place(*header["follows"])
        self.counts: Counter[str] = Counter(header["counts"])
        self.oov_words: list[str] = header["oov_words"]

    def read(self, name: str) -> np.ndarray:
        """One of the unit's arrays."""
        with np.load(self._path) as file:
            return file[name]


def tokenise_all(
    blocks: Iterable[Block], directory: Path, recipe: Recipe, processes: int
) -> Generator[tuple[Unit, Place | None], None, None]:
    """(tokens of the block, place after it) for each block, in order.

    `directory` holds the tokenizer. With one process, this process does the work; with
    more, so many workers do it, and one more block is read ahead.
    """
    if processes == 1:
        tools = _tools(directory, recipe)
        for fragments, follows in blocks:
            yield tokenise(fragments, *tools), follows
        return
    # Fresh interpreters, not forks: the caller may have threads.
    spawn = multiprocessing.get_context("spawn")
    with _signals_held(), _script_hidden():
        pool = ProcessPoolExecutor(processes, spawn, _start_worker)

    def submitted() -> Iterator[tuple[Future[Unit], Place | None]]:
        waiting = deque()
        for fragments, follows in blocks:
            with _signals_held(), _script_hidden():
                work = pool.submit(_work, directory, recipe, fragments)
            waiting.append((work, follows))
            if len(waiting) > processes:
                yield waiting.popleft()
        yield from waiting

    try:
        yield from ((future.result(), follows) for future, follows in submitted())
    except BrokenProcessPool:
        raise UserError(
            "a process of prepare was killed: run it again, it continues; take fewer "
            "--processes if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Hide the caller's script from workers that start: a fresh interpreter would run
    it again, and it calls `prepare`. They need nothing of it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay signals to the end of the block, which makes a pool or starts a worker.

    A pool that is half made leaks semaphores, and a worker prints a traceback if its
    caller ends while it starts. Workers inherit the block of Ctrl-C and SIGHUP,
    which are for the caller alone.
    """
    held: list[int] = []
    handlers = {n: signal.getsignal(n) for n in ENDING}
    alone = threading.current_thread() is threading.main_thread()  # it may set them
    handlers = {n: each for n, each in handlers.items() if alone and callable(each)}
    for number in handlers:
        signal.signal(number, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


def _tools(directory: Path, recipe: Recipe) -> tuple[Any, ...]:
    """Tokenizer, recipe and finders: what `tokenise` needs besides fragments."""
    finders = open_finders(recipe.spans, recipe.lexicon)
    return load_tokenizer(directory), recipe, *finders


_worker_tools = functools.cache(_tools)  # a worker process has a single job


def _work(directory: Path, recipe: Recipe, fragments: list[Fragment]) -> Unit:
    return tokenise(fragments, *_worker_tools(directory, recipe))


def _start_worker() -> None:
    def end_with_caller() -> None:
        multiprocessing.parent_process().join()  # pyrefly: ignore
        os._exit(1)

    # A caller that is killed cannot tell its workers to stop.
    threading.Thread(target=end_with_caller, daemon=True).start()
