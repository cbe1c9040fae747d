"""Fragments → blocks of tokens, by this process or by several, in the same order.

Imported by the worker processes: nothing here or below it needs TensorStore.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.text.dialogues import turns_of
from jaxlm.text.documents import Fragment
from jaxlm.text.languages import Chinese, converter, primary
from jaxlm.text.sentences import (
    Errors,
    Texts,
    annotated_of,
    sentences_of,
    verbatim_of,
)
from jaxlm.text.spans import ANNOTATED, Finder, Marked, Span, mark_spans, open_finders
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.types import Mark, UserError


@dataclass(frozen=True)
class Recipe:
    """What decides a fragment's tokens, beside the tokenizer."""

    language: str = "en"  # of text without a label
    languages: tuple[str, ...] = ()  # labels by number; empty: of one language
    errors: Errors = "strict"
    seed: int = 0
    holdout: float = 0.0  # share of documents
    verbatim: bool = False  # spaces and line ends are text, lines are sentences
    spans: str = "none"  # what finds words, phrases and entities
    lexicon: str = ""  # file of the user's entities
    dialogues: bool = False  # records are dialogues, turns are sentences
    chinese: Chinese = "as_is"  # the characters that Chinese is converted to


class Block(NamedTuple):
    """The tokens of some fragments in a row; offsets count from the block's first."""

    tokens: np.ndarray  # uint16 or uint32 [n]
    marks: np.ndarray  # uint8 [n]: word and sentence starts
    sentences: np.ndarray  # int64 [m], token offsets
    documents: np.ndarray  # int64 [d, 3]: token offset, language, split; empty ones too
    text_bytes: int
    replaced: int
    strangers: tuple[str, ...] = ()  # words of ids from `vocab_size` on, in this block
    spans: int = 0  # phrases and entities that are marked
    spans_dropped: int = 0


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """uint16 when all ids surely fit, else uint32."""
    fits = tokenizer.vocab_size <= 1 << 16 and not tokenizer.keeps_strangers
    return np.dtype(np.uint16 if fits else np.uint32)


def hashed(data: bytes, seed: int, name: str) -> float:
    """A number in [0, 1) that `data`, `seed` and `name` decide."""
    key = f"{seed}/{name}".encode()
    digest = hashlib.blake2b(data, digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def split_of(start: bytes, recipe: Recipe) -> int:
    """1 (held out) or 0, by the hash of a document's first fragment."""
    if not recipe.holdout:
        return 0
    return int(hashed(start, recipe.seed, "holdout") < recipe.holdout)


def texts_of(fragment: Fragment, recipe: Recipe) -> Texts:
    """What of a fragment is tokenised."""
    language = fragment.language or recipe.language
    if fragment.form in ANNOTATED:
        return annotated_of(fragment, language, recipe.errors)
    if recipe.dialogues:
        found = turns_of(fragment, recipe.errors)
    elif recipe.verbatim:
        found = Texts(*verbatim_of(fragment, recipe.errors))
    else:
        found = Texts(*sentences_of(fragment, language, recipe.errors))
    if recipe.chinese != "as_is" and primary(language) == "zh":
        texts = list(map(converter(recipe.chinese), found.texts))
        found = found._replace(texts=texts)
    return found


def tokenise(
    fragments: Sequence[Fragment],
    tokenizer: Tokenizer,
    recipe: Recipe,
    finders: Sequence[Finder] = (),
) -> Block:
    """The tokens of some fragments; `finders` are the recipe's.

    Raises:
        UserError: a fragment cannot be read (see `sentences_of`).
    """
    texts: list[str] = []
    given: list[list[Span]] = []  # of annotated text
    second: list[bool] = []  # of dialogues
    documents: list[tuple[int, int, int]] = []  # (its first text, language, split)
    replaced = dropped = 0
    for fragment in fragments:
        if fragment.starts:
            language = 0
            if recipe.languages:
                language = recipe.languages.index(fragment.language)
            split = split_of(fragment.data, recipe)
            documents.append((len(texts), language, split))
        more = texts_of(fragment, recipe)
        texts += more.texts
        given += more.spans or []
        second += more.second or []
        replaced += more.replaced
        dropped += more.dropped
    ids, word_start, counts, strangers = tokenizer.encode_flat(texts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    sentence_starts = starts[:-1][counts > 0]
    if recipe.verbatim and len(ids):
        ends_line = tokenizer.ends_line[ids[:-1]]
        sentence_starts = np.union1d(sentence_starts, np.flatnonzero(ends_line) + 1)
    marked = Marked(word_start * np.uint8(Mark.WORD), 0, 0)
    if finders or given:
        with _uncollected():
            found: list[Sequence] = [[find(text) for text in texts] for find in finders]
            if given:
                found.append(given)
            marked = mark_spans(texts, ids, counts, word_start, tokenizer, found)
            del found
    marks = marked.marks
    marks[sentence_starts] |= np.uint8(Mark.SENTENCE)
    if second:
        marks[np.repeat(second, counts)] |= np.uint8(Mark.SPEAKER)
    table = np.array(documents, np.int64).reshape(-1, 3)
    table[:, 0] = starts[table[:, 0]]
    return Block(
        tokens=ids.astype(token_dtype(tokenizer)),
        marks=marks,
        sentences=sentence_starts.astype(np.int64),
        documents=table,
        text_bytes=sum(len(fragment.data) for fragment in fragments),
        replaced=replaced,
        strangers=strangers,
        spans=marked.found,
        spans_dropped=marked.dropped + dropped,
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles: a million spans have none, and looking takes
    a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def tokenise_all(
    work: Iterable[list[Fragment]],
    tokenizer: str | Path,
    recipe: Recipe,
    *,
    processes: int,
) -> Generator[Block, None, None]:
    """The block of each list of fragments, in their order, by `processes` processes.

    Args:
        work: lists of fragments; at most `processes` of them are taken ahead.
        tokenizer: the directory that it was saved in.
        recipe: of the tokens.
        processes: 1: no other process is started.

    Raises:
        UserError: a fragment cannot be read, or a process was killed.
    """
    if processes == 1:
        model = load_tokenizer(tokenizer)
        finders = open_finders(recipe.spans, recipe.lexicon)
        for fragments in work:
            yield tokenise(fragments, model, recipe, finders)
        return
    # Fresh interpreters, not forks (the caller may have threads) and not
    # `multiprocessing` (it runs the caller's script again). Each holds the end of one
    # pipe and no other, so that it sees the caller's death as the end of its input.
    workers: list[subprocess.Popen] = []
    try:
        for _ in range(processes):
            workers.append(_start(tokenizer, recipe))
        # Dealt in turn and collected in the same turn: the order is the reader's.
        turns, waiting = itertools.cycle(workers), deque()
        for fragments in work:
            if len(waiting) == processes:
                yield _collect(waiting.popleft())
            worker = next(turns)
            _send(worker, fragments)
            waiting.append(worker)
        while waiting:
            yield _collect(waiting.popleft())
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _start(tokenizer: str | Path, recipe: Recipe) -> subprocess.Popen:
    code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as b; b.serve()"
    worker = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    _send(worker, (str(tokenizer), recipe))
    return worker


def _send(worker: subprocess.Popen, message: object) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_collect` says why
        pickle.dump(message, worker.stdin, pickle.HIGHEST_PROTOCOL)
        worker.stdin.flush()


def _collect(worker: subprocess.Popen) -> Block:
    assert worker.stdout is not None
    try:
        result = pickle.load(worker.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise UserError(
            f"a process of prepare was killed (exit code {worker.wait()}): run it "
            "again, it continues; with fewer --processes if memory is short"
        ) from None
    if isinstance(result, BaseException):
        raise result
    return result


def serve() -> None:
    """A worker: fragments in, a block (or the reason why not) out, to the last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's affair
    read, write = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    directory, recipe = pickle.load(read)
    model = load_tokenizer(directory)
    finders = open_finders(recipe.spans, recipe.lexicon)
    while True:
        try:
            fragments = pickle.load(read)
        except EOFError:
            return
        try:
            result = tokenise(fragments, model, recipe, finders)
        except Exception as error:
            result = error
        try:
            pickle.dump(result, write, pickle.HIGHEST_PROTOCOL)
            write.flush()
        except BrokenPipeError:
            os._exit(0)
