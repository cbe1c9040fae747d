"""Position → rows of text in both directions, with state carried across rows: ELMo.

    forward   <S> the cat sat  │ <S> it   purr    →    the cat sat </S> │ it   purr </S>
    backward  </S> sat cat the │ </S> purr it     →    sat cat the <S>  │ purr it   <S>

A pass puts the documents end to end in an order keyed by (seed, stream, pass), one
order for each direction, and cuts the targets into B parts, one for each row of the
batch. Row r of step s is slice s of part r, so it continues row r of the step before.
A sentence's first boundary is no target. The remainder, less than one batch, is dropped
in this pass.

Without `carry`, a row is a sentence, the same in both directions, or the next `length`
targets of a long one; sentences come in a keyed order.

The rows of allenai/bilm-tf (bilm/data.py) draw sentences. Here they draw documents, so
that sentences of a text stay together. In both, the two directions read different text.
"""

import functools
from dataclasses import dataclass

import numpy as np

from jaxlm.data.chance import hashes, permuted
from jaxlm.data.layouts import document_ends
from jaxlm.text.characters import word_characters
from jaxlm.text.corpus import Corpus
from jaxlm.text.tokenizers.word_vocab import UNKNOWN_ID
from jaxlm.types import UserError, WordRows

_LOOKED_AT = 1 << 20  # tokens that the check of a vocabulary's order reads


@dataclass(frozen=True, eq=False)
class BilmSource:
    """A split of a corpus of words, in rows of one length and batches of one size."""

    corpus: Corpus
    length: int
    batch: int
    seed: int
    stream: str
    shuffle: bool  # False: all documents once, in the order of the corpus (evaluation)
    slices: int  # in each of the B parts
    before: np.ndarray  # int64 [m + 1], targets in the corpus before each sentence
    first: np.ndarray  # int64 [d], first sentence of each document of the split
    size: np.ndarray  # int64 [d], targets in it
    characters: np.ndarray  # uint16 [types, C]
    windows: np.ndarray | None  # without carry, int64 [w, 2]: sentence, first target

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        if self.windows is not None:
            return len(self.windows)
        return self.slices * self.batch


def open_bilm_source(
    corpus: Corpus,
    *,
    split: int,
    length: int,
    batch: int,
    seed: int,
    stream: str,
    slots: int,
    shuffle: bool = True,
    limit: int = 0,
    carry: bool = True,
) -> BilmSource:
    """Plan a split of a corpus as B parts of rows of `length` targets.

    Args:
        split: 0 training documents, 1 held out.
        batch: B of the global batch.
        slots: characters of a word.
        shuffle: a new order of the documents in each pass.
        limit: most rows; 0: all.
        carry: rows continue from batch to batch; False: a row is a sentence.

    Raises:
        UserError: the corpus has no words or no sentence boundaries, the split is
            smaller than one batch, or the vocabulary is not in order of frequency.
    """
    if corpus.manifest.boundaries is None or corpus.manifest.tokenizer_kind != "words":
        raise UserError(
            f"corpus {corpus.directory} has no whole words between <S> and </S>, which "
            "an ELMo reads: prepare it with an ELMo's recipe"
        )
    inside = corpus.documents[:, 2] == split
    low = np.searchsorted(corpus.sentences, corpus.documents[inside, 0])
    high = np.searchsorted(corpus.sentences, document_ends(corpus)[inside])
    starts = np.append(corpus.sentences, corpus.num_tokens)
    before = starts - np.arange(len(starts))
    size = before[high] - before[low]
    total = int(size.sum())
    slices = total // (batch * length) if shuffle else -(-total // (batch * length))
    windows = None
    if not carry:
        windows = _windows(before, low, high, length)
        slices = len(windows)
        if 0 < limit < slices:
            windows = windows[np.arange(limit) * slices // limit]
    if not slices:
        raise UserError(
            f"corpus {corpus.directory} has {total} words to predict in split {split}, "
            f"a batch takes batch x length = {batch} x {length}"
        )
    if shuffle:
        _check_order(corpus)
    elif limit:
        slices = min(slices, max(1, limit // batch))
    return BilmSource(
        corpus=corpus,
        length=length,
        batch=batch,
        seed=seed,
        stream=stream,
        shuffle=shuffle,
        slices=slices,
        before=before,
        first=low,
        size=size,
        characters=word_characters(corpus.types, slots=slots),
        windows=windows,
    )


def _windows(
    before: np.ndarray, low: np.ndarray, high: np.ndarray, length: int
) -> np.ndarray:
    """(sentence, first target) of every row of the documents, whose sentences are
    `low` … `high` - 1."""
    inside = np.zeros(len(before), np.int64)
    np.add.at(inside, low, 1)
    np.add.at(inside, high, -1)
    sentences = np.flatnonzero(np.cumsum(inside)[:-1])
    rows = -(-np.diff(before)[sentences] // length)
    which = np.repeat(sentences, rows)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(rows) - rows, rows)
    return np.stack([which, nth * length], axis=1)


def read_bilm_rows(source: BilmSource, rows: np.ndarray) -> WordRows:
    """The rows with these numbers, int64 [b], in both directions.

    Past the end of an unshuffled source nothing is valid.
    """
    tokens, targets, valid = (
        np.zeros((len(rows), 2, source.length), kind)
        for kind in (np.int32, np.int32, bool)
    )
    passes = rows // source.rows
    for number in np.unique(passes):
        here = np.flatnonzero(passes == number)
        if number and not source.shuffle:
            continue
        for way in range(2):
            inside = rows[here] % source.rows
            if source.windows is None:
                places = _stream_places(source, int(number), way, inside)
            else:
                places = _sentence_places(source, int(number), inside)
            read = _read(source, way, *places)
            for out, array in zip((tokens, targets, valid), read, strict=True):
                out[here, way] = array
    known = source.corpus.manifest.vocab_size
    return WordRows(
        tokens=tokens,
        targets=np.where(targets < known, targets, UNKNOWN_ID).astype(np.int32),
        characters=source.characters[tokens],
        valid=valid,
    )


@functools.lru_cache(maxsize=8)
def _order(source: BilmSource, number: int, way: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents in the order of a pass, targets before each of them and in all)."""
    documents = np.arange(len(source.size))
    if source.shuffle:
        name = f"{source.stream}/order/{('forward', 'backward')[way]}"
        key = hashes(source.seed, name, np.array([number]))
        documents = permuted(documents, len(documents), np.tile(key, len(documents)))
    return documents, np.append(0, np.cumsum(source.size[documents]))


def _stream_places(source: BilmSource, number: int, way: int, rows: np.ndarray):
    """(sentence, target in it, valid), each [b, L], of rows of one pass."""
    slice_, part = np.divmod(rows, source.batch)
    begin = (part * source.slices + slice_) * source.length
    place = begin[:, None] + np.arange(source.length)
    documents, before = _order(source, number, way)
    valid = place < before[-1]
    place = np.minimum(place, before[-1] - 1)
    # Documents without a target have equal bounds: take the last of them.
    nth = np.searchsorted(before, place, side="right") - 1
    inside = source.before[source.first[documents[nth]]] + place - before[nth]
    sentence = np.searchsorted(source.before, inside, side="right") - 1
    return sentence, inside - source.before[sentence], valid


def _sentence_places(source: BilmSource, number: int, rows: np.ndarray):
    """As `_stream_places`, for rows that are sentences."""
    assert source.windows is not None
    if source.shuffle:
        key = hashes(source.seed, f"{source.stream}/order", np.array([number]))
        rows = permuted(rows, source.rows, np.tile(key, len(rows)))
    sentence, first = source.windows[rows].T[..., None]
    step = first + np.arange(source.length)
    last = np.diff(source.before)[sentence] - 1
    sentence = np.broadcast_to(sentence, step.shape)
    return sentence, np.minimum(step, last), step <= last


def _read(
    source: BilmSource,
    way: int,
    sentence: np.ndarray,
    step: np.ndarray,
    valid: np.ndarray,
):
    """(tokens, targets, valid), each [b, L]."""
    starts = source.before + np.arange(len(source.before))  # of sentences, in tokens
    if way == 0:
        at = starts[sentence] + step
        low = at
    else:
        at = starts[sentence + 1] - 1 - step
        low = at - 1
    # The part of a sentence in a row is contiguous in the corpus: one read each.
    new = np.ones(sentence.shape, bool)
    new[:, 1:] = np.diff(sentence, axis=1) != 0
    piece = np.cumsum(new.ravel()) - 1
    heads = np.flatnonzero(new)
    lowest = np.minimum.reduceat(low.ravel(), heads)
    lengths = np.maximum.reduceat(low.ravel(), heads) + 2 - lowest
    text, _ = source.corpus.read(lowest, int(lengths.max()), lengths)
    here = low.ravel() - lowest[piece]
    pair = text[piece, here], text[piece, here + 1]
    tokens, targets = (
        x.reshape(step.shape) for x in (pair if way == 0 else pair[::-1])
    )
    return np.where(valid, tokens, 0), np.where(valid, targets, 0), valid


def _check_order(corpus: Corpus) -> None:
    """Refuse a vocabulary whose first tenth is on average rarer than the rest.

    A sampled softmax takes the id of a word for its rank in frequency.
    """
    known = corpus.manifest.vocab_size
    tokens, _ = corpus.read(np.zeros(1, np.int64), min(corpus.num_tokens, _LOOKED_AT))
    counts = np.bincount(tokens[0], minlength=known)[3:known]
    tenth = len(counts) // 10
    if tenth and counts[:tenth].mean() <= counts[tenth:].mean():
        raise UserError(
            f"the vocabulary of corpus {corpus.directory} is not in falling frequency:"
            f" its first {tenth} words stand {counts[:tenth].sum():,} times in it, "
            f"the other {len(counts) - tenth} {counts[tenth:].sum():,} times; sort it"
        )
