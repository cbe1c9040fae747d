"""Position → rows of text in both directions, with state carried across rows: ELMo.

    forward   <S> the cat sat  │ <S> it   purr    →    the cat sat </S> │ it   purr </S>
    backward  </S> sat cat the │ </S> purr it     →    sat cat the <S>  │ purr it   <S>

A pass puts the documents end to end in an order keyed by (seed, stream, pass), one
order for each direction, and cuts the targets into B parts, one for each row of the
batch. Row r of step s is slice s of part r, so it continues row r of the step before.
The first boundary of a sentence is not a target. The remainder, less than one batch, is
dropped in this pass.

Without `data.carry`, a row is a sentence, the same in both directions. A sentence with
more than `length` targets fills several rows. Rows come in a keyed order.

allenai/bilm-tf (bilm/data.py) shuffles sentences. jaxlm shuffles documents, so that the
sentences of a text stay together. In both, the two directions read different text.
"""

import functools
import itertools

import numpy as np

from jaxlm.config import BilmData, ElmoConfig
from jaxlm.data.rows import RowSource, numbered, spaced
from jaxlm.keys import hashes, permuted
from jaxlm.text.characters import word_characters
from jaxlm.text.corpus import Corpus
from jaxlm.text.tokenizers.words import UNKNOWN_ID
from jaxlm.types import UserError, WordRows

_SAMPLE = 1 << 20  # tokens that the check of a vocabulary's order reads


class BilmRows(RowSource):
    """A split of a corpus of words, in both directions.

    `slices` is the number of rows in each of the B parts. `before` counts the targets
    before each sentence of the corpus, int64 [m + 1], and `size` the targets of each
    document in the split, int64 [d]. `windows` is None; without carry it has the
    (sentence, first target) of each row, int64 [w, 2].
    """

    layout = "bilm"

    def __post_init__(self) -> None:
        super().__post_init__()
        corpus, limit = self.corpus, self.limit
        length, batch = self.phase.length, self.phase.batch
        model, data = self.config.model, self.config.data
        assert isinstance(model, ElmoConfig) and isinstance(data, BilmData)
        manifest = corpus.manifest
        if len(corpus.language_tokens(self.split)) > 1:
            raise UserError(
                f"corpus {corpus.directory} is of several languages, and an ELMo, whose"
                " rows go on from batch to batch, reads one: prepare a corpus of each"
            )
        if manifest.boundaries is None or manifest.tokenizer_kind != "words":
            raise UserError(
                f"corpus {corpus.directory} has no whole words between <S> and </S>, "
                "which an ELMo reads: prepare it with an ELMo's recipe"
            )
        starts = np.append(corpus.sentences, corpus.num_tokens)
        self.before = starts - np.arange(len(starts))
        self.low, high = np.searchsorted(corpus.sentences, (self.first, self.end))
        self.size = self.before[high] - self.before[self.low]
        total, self.windows = int(self.size.sum()), None
        if data.carry:
            whole, rest = divmod(total, batch * length)
            self.slices = whole if self.shuffle else whole + (rest > 0)
            if limit and not self.shuffle:
                self.slices = min(self.slices, max(1, limit // batch))
        else:
            document, nth = numbered(high - self.low)
            sentences = self.low[document] + nth
            which, nth = numbered(-(-np.diff(self.before)[sentences] // length))
            windows = np.stack([sentences[which], nth * length], axis=1)
            self.slices = len(windows)
            self.windows = spaced(windows, limit)
        if not self.slices:
            raise UserError(
                f"corpus {corpus.directory} has {total} words to predict in split "
                f"{self.split}, a batch takes batch x length = {batch} x {length}"
            )
        if self.shuffle:
            _check_order(corpus)
        self.characters = word_characters(corpus.types, slots=model.max_characters)

    @property
    def rows(self) -> int:
        """The number of rows in one pass."""
        if self.windows is not None:
            return len(self.windows)
        return self.slices * self.phase.batch

    def read(self, rows: np.ndarray) -> WordRows:
        """The words of the rows, as `RowSource.read`; positions not valid are 0."""
        shape = len(rows), 2, self.phase.length
        tokens, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        valid = np.zeros(shape, bool)
        passes, inside = np.divmod(rows, self.rows)
        numbers = np.unique(passes if self.shuffle else passes[passes == 0])
        for number, way in itertools.product(numbers, range(2)):
            here = np.flatnonzero(passes == number)
            find = self._in_stream if self.windows is None else self._in_sentence
            sentence, step, there = find(int(number), way, inside[here])
            found = self._tokens(way, sentence, step)
            for out, each in zip((tokens, targets), found, strict=True):
                out[here, way] = np.where(there, each, 0)
            valid[here, way] = there
        known = self.corpus.manifest.vocab_size
        targets = np.where(targets < known, targets, np.int32(UNKNOWN_ID))
        return WordRows(tokens, targets, self.characters[tokens], valid)

    def _in_stream(self, number: int, way: int, rows: np.ndarray):
        """(sentence, target within it, valid), each [b, L], for rows of one pass."""
        slice_, part = np.divmod(rows, self.phase.batch)
        begin = (part * self.slices + slice_) * self.phase.length
        place = begin[:, None] + np.arange(self.phase.length)
        documents, before = _order(self, number, way)
        valid = place < before[-1]
        place = np.minimum(place, before[-1] - 1)
        # Documents without a target have equal bounds: take the last of them.
        nth = np.searchsorted(before, place, side="right") - 1
        inside = self.before[self.low[documents[nth]]] + place - before[nth]
        sentence = np.searchsorted(self.before, inside, side="right") - 1
        return sentence, inside - self.before[sentence], valid

    def _in_sentence(self, number: int, way: int, rows: np.ndarray):
        """As `_in_stream`, without carry: a row is a sentence in either direction."""
        del way
        assert self.windows is not None
        if self.shuffle:
            name = f"{self.stream}/order"
            key = hashes(self.config.seed, name, np.array([number]))
            rows = permuted(rows, self.rows, key)
        sentence, first = self.windows[rows].T[..., None]
        step = first + np.arange(self.phase.length)
        last = np.diff(self.before)[sentence] - 1
        sentence = np.broadcast_to(sentence, step.shape)
        return sentence, np.minimum(step, last), step <= last

    def _tokens(self, way: int, sentence: np.ndarray, step: np.ndarray):
        """(tokens, targets), each [b, L], in the direction of reading."""
        starts = self.before + np.arange(len(self.before))  # of sentences, in tokens
        low = starts[sentence] + step
        if way:
            low = starts[sentence + 1] - 2 - step
        # The part of a sentence in a row is contiguous in the corpus: one read each.
        new = np.ones(sentence.shape, bool)
        new[:, 1:] = np.diff(sentence, axis=1) != 0
        piece = np.cumsum(new.ravel()) - 1
        heads = np.flatnonzero(new)
        lowest = np.minimum.reduceat(low.ravel(), heads)
        lengths = np.maximum.reduceat(low.ravel(), heads) + 2 - lowest
        text, _ = self.corpus.read(lowest, int(lengths.max()), lengths)
        here = low.ravel() - lowest[piece]
        pair = [text[piece, at].reshape(step.shape) for at in (here, here + 1)]
        return pair[::-1] if way else pair


@functools.lru_cache(maxsize=8)
def _order(source: BilmRows, number: int, way: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents in the order of a pass, number of targets before each, and in all)."""
    documents = np.arange(len(source.size))
    if source.shuffle:
        name = f"{source.stream}/order/{('forward', 'backward')[way]}"
        key = hashes(source.config.seed, name, np.array([number]))
        documents = permuted(documents, len(documents), key)
    return documents, np.append(0, np.cumsum(source.size[documents]))


def _check_order(corpus: Corpus) -> None:
    """Refuse a vocabulary whose first tenth is on average rarer than the rest.

    A sampled softmax assumes that the id of a word is its rank in frequency.
    """
    known = corpus.manifest.vocab_size
    tokens, _ = corpus.read(np.zeros(1, np.int64), min(corpus.num_tokens, _SAMPLE))
    counts = np.bincount(tokens[0], minlength=known)[3:known]
    tenth = len(counts) // 10
    if tenth and counts[:tenth].mean() <= counts[tenth:].mean():
        raise UserError(
            f"the vocabulary of corpus {corpus.directory} is not in falling frequency:"
            f" its first {tenth} words stand {counts[:tenth].sum():,} times in it, "
            f"the other {len(counts) - tenth} {counts[tenth:].sum():,} times; sort it"
        )
