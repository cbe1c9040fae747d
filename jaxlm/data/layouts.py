"""A corpus → the start of every row, an int64 each, planned once. Next: `pipeline.py`.

    tokens     [ s0 | s1 | s2 | s3 | s4 | s5 | s6 | s7 ]      one document
    pairs      `------------------'          row 0: a chunk of `length - 3` tokens
                              `------------------'   row 1 begins ¾ of a chunk later
    blocks     `-----------'`-----------'`----'     `length - 2` tokens each, no overlap

    tokens     [ t0 | t1 | t2 | t3 | t4 | t5 | t6 | t7 ]      one dialogue
    dialogues  `------------'`------------'                   three turns each
                                   `------------'             the last has three, too

    tokens     [ d0 . . ↵ | d1 . ↵ | d2 . . ↵ | d3 . . . ↵ ]  documents; d2 is held out
    stream   ↵ [ d0 . . ↵   d1 . ↵   d3 . . . ↵ ]             end to end, ↵ before them
             `-----------'                row 0: `length` targets and the token before
                         `------------'   row 1 …

*pairs*: a row with a random second segment uses half of its chunk on average, so rows
that lie end to end would lose a quarter of the text. The reference puts the unused
sentences back, so its next chunk begins ¾ of a chunk later on average. A plan must not
depend on coins, so here every row begins ¾ of a chunk after the one before. The number
of rows and of uses of a token is the same (within 6 %), and coins are fresh in every
pass. The price is that one pass over prose reads 83 % of its tokens, not 93 %; after
eight passes both have read 99.9 % (tests/transforms/test_pairs.py).
"""

import os
from pathlib import Path

import numpy as np

from jaxlm.text.corpus import Corpus
from jaxlm.types import Layout, UserError

TURNS = 3  # turns of a dialogue in a row


def plan(
    corpus: Corpus, split: int, layout: Layout, length: int, *, block: int = 4_000_000
) -> np.ndarray:
    """First token of every row, int64 [rows], in the order of the corpus.

    For a stream: the number of tokens of the split before the row. Plans are cached
    beside the corpus under its digest and memory-mapped; a read-only corpus is planned
    in memory each time.

    Args:
        block: sentences planned at a time, so that memory stays bounded.

    Raises:
        UserError: the split has no row.
    """
    name = f"{corpus.sha256[:16]}-{split}-{layout}-{length}.npy"
    cached = Path(corpus.directory) / "plans" / name
    if cached.is_file():
        return np.load(cached, mmap_mode="r")
    starts = _plan(corpus, split, layout, length, block)
    if not len(starts):
        which = "held-out" if split else "training"
        raise UserError(
            f"corpus {corpus.directory} has no {which} rows: "
            f"{np.sum(corpus.documents[:, 2] == split)} documents are in that split"
        )
    try:
        cached.parent.mkdir(exist_ok=True)
        beside = cached.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            np.save(file, starts)
        beside.replace(cached)
    except OSError:
        return starts
    return np.load(cached, mmap_mode="r")


def document_ends(corpus: Corpus) -> np.ndarray:
    """The end of each document (the token after its last), int64 [d]."""
    return np.append(corpus.documents[1:, 0], corpus.num_tokens)


def stream_extents(corpus: Corpus, split: int) -> tuple[np.ndarray, np.ndarray]:
    """(first token, end) of each contiguous piece of a stream, int64 [s] both.

    Adjacent documents form one piece. The first piece is the single end-of-document
    token from which the first token of the stream is predicted.
    """
    inside = corpus.documents[:, 2] == split
    before, after = np.append(False, inside[:-1]), np.append(inside[1:], False)
    first = corpus.documents[inside & ~before, 0]
    end = document_ends(corpus)[inside & ~after]
    return np.insert(first, 0, end[-1] - 1), np.insert(end, 0, end[-1])


def _plan(
    corpus: Corpus, split: int, layout: Layout, length: int, block: int
) -> np.ndarray:
    inside = corpus.documents[:, 2] == split
    first = corpus.documents[inside, 0]
    end = document_ends(corpus)[inside]
    if layout == "stream":
        return np.arange(0, np.sum(end - first), length)
    if layout == "blocks":
        return _blocks(first, end, length - 2)
    if layout == "dialogues":
        return _turns(corpus.sentences, first, end)
    sentences = corpus.sentences
    parts = []
    at = 0
    while at < len(first):
        # At least one document, and about a block of sentences.
        low = np.searchsorted(sentences, first[at])
        until = np.searchsorted(sentences, first, side="left")
        stop = max(at + 1, int(np.searchsorted(until, low + block)))
        high = np.searchsorted(sentences, end[stop - 1])
        these = np.asarray(sentences[low:high])
        parts.append(_chunks(these, first[at:stop], end[at:stop], length - 3))
        at = stop
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _blocks(first: np.ndarray, end: np.ndarray, width: int) -> np.ndarray:
    counts = -(-(end - first) // width)
    document = np.repeat(np.arange(len(first)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[document] + number * width


def _turns(sentences: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    low, high = np.searchsorted(sentences, first), np.searchsorted(sentences, end)
    counts = np.where(high - low > 1, -(-(high - low) // TURNS), 0)
    document = np.repeat(np.arange(len(first)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    last = np.maximum(high - TURNS, low)[document]
    return np.asarray(sentences[np.minimum(low[document] + number * TURNS, last)])


def _chunks(
    sentences: np.ndarray, first: np.ndarray, end: np.ndarray, target: int
) -> np.ndarray:
    """Starts ¾ of a chunk apart, found for all documents in parallel."""
    document_end = np.searchsorted(sentences, end)
    this = np.searchsorted(sentences, first)
    out = []
    ends = 0
    while len(this):
        out.append(this)
        chunk = np.searchsorted(sentences, sentences[this] + target)
        chunk = np.minimum(np.maximum(chunk, this + 1), document_end)
        # The reference advances by the whole chunk half of the time, else by a uniform
        # part of its sentences: ¾ on average. Rounding up and down in turn keeps this
        # average for short chunks.
        size = chunk - this
        turn = len(out) + np.arange(len(this))
        step = np.maximum((3 * size + turn % 4) // 4, 1)
        # At the end of a document no later row evens this out: alternate between both.
        last = chunk == document_end
        nth = ends + np.cumsum(last)
        ends = nth[-1]
        part = 1 + nth // 2 % np.maximum(size - 1, 1)
        this = this + np.where(last, np.where(nth % 2, size, part), step)
        alive = this < document_end
        this, document_end = this[alive], document_end[alive]
    return sentences[np.sort(np.concatenate(out))] if out else np.zeros(0, np.int64)
