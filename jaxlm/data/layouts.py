"""Where the rows of a corpus begin, planned once, and which tokens each row reads.

    tokens     [ s0 | s1 | s2 | s3 | s4 | s5 | s6 | s7 ]      one document
    pairs      `------------------'          row 0: a chunk of `length - 3` tokens
                              `------------------'   row 1 begins ¾ of a chunk later
    blocks     `-----------'`-----------'`----'     `length - 2` tokens each, no overlap

    tokens     [ t0 | t1 | t2 | t3 | t4 | t5 | t6 | t7 ]      one dialogue
    dialogues  `------------'`------------'                   three turns each
                                   `------------'             the last has three, too

    tokens     [ d0 . . . | d1 . | d2 . . | d3 . . . . . ]    documents; d2 is held out
    packed     `------------'          `---------------'      full rows, with [CLS] and
                                                       `-- …  [SEP] round each text

    tokens     [ d0 . . ↵ | d1 . ↵ | d2 . . ↵ | d3 . . . ↵ ]  documents; d2 is held out
    stream   ↵ [ d0 . . ↵   d1 . ↵   d3 . . . ↵ ]             end to end, ↵ before them
             `-----------'                row 0: `length` targets and the token before
                         `------------'   row 1 …

*pairs*: a row with a random second segment uses half of its chunk on average, so rows
that lie end to end would lose a quarter of the text. The reference puts the unused
sentences back, so its next chunk begins ¾ of a chunk later on average. A plan must not
depend on random draws, so here every row begins ¾ of a chunk after the previous row.
The number of rows and the uses of each token are the same (within 6 %), and every pass
draws anew. The price is that one pass over prose reads 83 % of its tokens, not 93 %;
after eight passes both have read 99.9 % (tests/objectives/test_pairs.py).
"""

import functools
from typing import Any

import numpy as np

from jaxlm.data.bilm import BilmRows
from jaxlm.data.rows import RowSource, WindowRows, numbered
from jaxlm.keys import hashes
from jaxlm.types import Layout, Rows, TokenSpan, UserError, WordRows

TURNS = 3  # turns of a dialogue in a row
GROUP = 1 << 20  # tokens after which packed rows begin anew, at the next document


class BlockRows(WindowRows):
    """Blocks of a document; each token is in one block."""

    layout = "blocks"

    @property
    def width(self) -> int:
        """The length without [CLS] and [SEP]."""
        return self.phase.length - 2

    def plan(self) -> np.ndarray:
        """The first token of each block; the last block of a document is shorter."""
        document, number = numbered(-(-(self.end - self.first) // self.width))
        return self.first[document] + number * self.width

    def spans(self, starts, language, row_key) -> tuple[TokenSpan, TokenSpan | None]:
        """(the block at each start, None): there is no second span."""
        del language, row_key
        return self.span(starts), None

    def span(self, starts: np.ndarray) -> TokenSpan:
        """The tokens from each start to the end of the document, at most `width`."""
        ends = self.end[np.searchsorted(self.first, starts, side="right") - 1]
        length = np.minimum(ends - starts, self.width)
        tokens, marks = self.corpus.read(starts, self.width, length)
        return TokenSpan(tokens, marks, length.astype(np.int32))


class PairRows(BlockRows):
    """Chunks for next-sentence prediction, each with a random other text."""

    layout = "pairs"
    documents_needed = 2
    remedy = (
        "separate documents by blank lines, or train without it (--model.nsp false)"
    )

    def __post_init__(self) -> None:
        if np.sum(self.corpus.documents[:, 2] == self.split) == 1:
            raise UserError(
                f"corpus {self.corpus.directory} has 1 document in split {self.split}, "
                "and next-sentence prediction draws from another one: " + self.remedy
            )
        super().__post_init__()
        data: Any = self.config.data
        self.same = data.second == "same"
        if self.same:
            lacks = "1 document, and data.second = same draws from another one,"
            self.check_languages(np.diff(self.members) > 1, lacks)

    @property
    def width(self) -> int:
        """Twice the length.

        A chunk ends with a whole sentence, so it may be longer than `length`; it fits
        unless that sentence has more than `length` tokens.
        """
        return 2 * self.phase.length

    def plan(self) -> np.ndarray:
        """The first token of each chunk; chunks begin ¾ of a chunk apart."""
        sentences, target = self.corpus.sentences, self.phase.length - 3
        return chunk_starts(sentences, self.first, self.end, target)

    def spans(self, starts, language, row_key):
        """A chunk, and the text from a random sentence of another document on."""
        return self.span(starts), self.span(self.elsewhere(starts, language, row_key))

    def elsewhere(
        self, starts: np.ndarray, language: np.ndarray, row_key: np.ndarray
    ) -> np.ndarray:
        """The start of a random sentence in a random other document, int64 [B]."""
        seed, stream = self.config.seed, f"{self.stream}/second"
        which = hashes(seed, stream, *row_key.T)
        where = hashes(seed, f"{stream}/sentence", *row_key.T)
        low, high = self.members[0], self.members[-1]
        if self.same:
            low, high = self.members[language], self.members[language + 1]
        others = np.asarray(high - low - 1, np.uint64)
        other = low + (which % others).astype(np.int64)
        other += other >= np.searchsorted(self.first, starts, side="right") - 1
        sentences = self.corpus.sentences
        begin = np.searchsorted(sentences, self.first[other])
        end = np.searchsorted(sentences, self.end[other])
        pick = begin + (where % (end - begin).astype(np.uint64)).astype(np.int64)
        return np.asarray(sentences[pick])


class DialogueRows(PairRows):
    """Rows of three turns, each with a random turn of another dialogue."""

    layout = "dialogues"
    remedy = "add some"

    @property
    def width(self) -> int:
        """Most tokens of one turn."""
        return self.phase.length - 2

    def plan(self) -> np.ndarray:
        """The first token of each row; a dialogue of one turn has no row."""
        sentences = self.corpus.sentences
        low, high = np.searchsorted(sentences, (self.first, self.end))
        rows = np.where(high - low > 1, -(-(high - low) // TURNS), 0)
        document, number = numbered(rows)
        last = np.maximum(high - TURNS, low)[document]
        return np.asarray(sentences[np.minimum(low[document] + number * TURNS, last)])

    def spans(self, starts, language, row_key):
        """The turns [B, TURNS, W], and one turn of another dialogue [B, W]."""
        other = self._turns(self.elsewhere(starts, language, row_key), 1)
        return self._turns(starts, TURNS), TokenSpan(*(each[:, 0] for each in other))

    def _turns(self, starts: np.ndarray, count: int) -> TokenSpan:
        """`count` turns from each start on; past the dialogue's end, they are empty."""
        sentences = self.corpus.sentences
        ends = self.end[np.searchsorted(self.first, starts, side="right") - 1][:, None]
        nth = np.searchsorted(sentences, starts)[:, None] + np.arange(count + 1)
        bounds = np.take(sentences, nth, mode="clip")
        bounds = np.minimum(np.where(nth < len(sentences), bounds, ends), ends)
        length = np.minimum(np.diff(bounds), self.width)
        read = self.corpus.read(bounds[:, :-1].ravel(), self.width, length.ravel())
        tokens, marks = (each.reshape(*length.shape, -1) for each in read)
        return TokenSpan(tokens, marks, length.astype(np.int32))


class JoinedRows(WindowRows):
    """Documents end to end; a window is the number of the split's tokens before it.

    Adjacent documents form one piece; `pieces` has (first token, end), int64 [2, s].
    The first piece is the single end-of-document token from which the first token of
    the stream is predicted. `before` counts tokens in all earlier pieces, int64 [s].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        begins = np.append(True, self.first[1:] != self.end[:-1])
        last = self.end[-1]
        first = np.insert(self.first[begins], 0, last - 1)
        end = np.insert(self.end[np.append(begins[1:], True)], 0, last)
        self.pieces = np.stack([first, end])
        self.before = np.cumsum(end - first) - (end - first)

    def positions(self) -> np.ndarray:
        """The number of the split's tokens before each document, and in all."""
        return np.append(0, np.cumsum(self.end - self.first))

    def joined(self, starts: np.ndarray, end: np.ndarray) -> TokenSpan:
        """The stream from `starts` to `end`, indices of the extra token in front and of
        the stream behind it; past the stream's end there is nothing.

        Documents of the other split are skipped, so a row may consist of several pieces
        of the corpus. All pieces are read together, then copied into the rows.
        """
        ends = self.before + self.pieces[1] - self.pieces[0]
        end = np.minimum(end, ends[-1])
        low = np.searchsorted(ends, starts, side="right")
        row, nth = numbered(np.searchsorted(self.before, end, side="left") - low)
        piece = low[row] + nth
        start = np.maximum(self.before[piece], starts[row])
        length = np.minimum(ends[piece], end[row]) - start

        width = int(length.max(initial=0))
        first = self.pieces[0][piece] + start - self.before[piece]
        parts = self.corpus.read(first, width, length)
        inside = np.arange(width) < length[:, None]
        at = (row * self.width + start - starts[row])[:, None] + np.arange(width)
        shape = len(starts), self.width
        tokens, marks = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        for out, part in zip((tokens, marks), parts, strict=True):
            out.reshape(-1)[at[inside]] = part[inside]
        return TokenSpan(tokens, marks, (end - starts).astype(np.int32))


class StreamRows(JoinedRows):
    """A decoder's rows: windows of equal length."""

    layout = "stream"

    def __post_init__(self) -> None:
        corpus = self.corpus
        if corpus.end_of_document is None:
            raise UserError(
                f"corpus {corpus.directory} has no end-of-text token after its "
                "documents, which a decoder needs: prepare it again, with a decoder's "
                "recipe and a vocabulary that has <|endoftext|>"
            )
        super().__post_init__()

    @property
    def width(self) -> int:
        """The number of tokens read: those of a row and the token before."""
        return self.phase.length + 1

    def plan(self) -> np.ndarray:
        """The position of each window; windows lie end to end."""
        return np.arange(0, self.positions()[-1], self.phase.length)

    def spans(self, starts, language, row_key):
        """Each window of the stream with the token before it."""
        del language, row_key
        return self.joined(starts, starts + self.width), None


class PackedRows(JoinedRows):
    """An encoder's packed rows: texts until a row is full, with room for the special
    tokens of each. At most 2 positions are left over, where no text of a token fits.

    Rows begin anew at each group of texts: at the first text of a language, and at that
    after each `GROUP` tokens. So a plan is made for all groups in parallel.
    """

    layout = "packed"

    @property
    def width(self) -> int:
        """The length without [CLS] and [SEP]."""
        return self.phase.length - 2

    @functools.cached_property
    def texts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(where each text begins, and the end; `needed` of `ends`; the groups)."""
        bounds = self.positions()
        needed = bounds[:-1] + 1 + 2 * np.arange(1, len(bounds))
        parts = bounds[:-1] // GROUP, self.documents[:, 1]
        new = np.any(np.diff(parts) > 0, axis=0)
        return bounds, needed, bounds[np.concatenate([[True], new, [True]])]

    def ends(self, starts: np.ndarray) -> np.ndarray:
        """Where the rows end that begin at these positions."""
        bounds, needed, groups = self.texts
        # As if special tokens of texts before the row took room, too: then the first
        # token of text i needs the same room in all rows.
        before = np.searchsorted(bounds, starts, side="right") - 1
        room = starts + self.phase.length + 2 * before
        texts = np.searchsorted(needed, room, side="right")
        group = groups[np.searchsorted(groups, starts, side="right")]
        return np.minimum(np.minimum(room - 2 * texts, bounds[texts]), group)

    def plan(self) -> np.ndarray:
        """The position of each row; rows lie end to end."""
        groups, out = self.texts[2], []
        at, stop = groups[:-1], groups[1:]
        while len(at):
            out.append(at)
            at = self.ends(at)
            at, stop = at[at < stop], stop[at < stop]
        return np.sort(np.concatenate(out))

    def spans(self, starts, language, row_key):
        """(the texts of each row without special tokens, None)."""
        del language, row_key
        return self.joined(starts + 1, self.ends(starts) + 1), None


# In what layout an objective reads a corpus → the class of its rows.
LAYOUTS: dict[Layout, type[RowSource]] = {
    each.layout: each
    for each in (BlockRows, PairRows, PackedRows, DialogueRows, StreamRows, BilmRows)
}


def rows_of_zeros(
    layout: Layout, count: int, length: int, characters: int = 50
) -> Rows | WordRows:
    """`count` rows, shaped as the class of a layout reads them: no text is needed."""

    def zeros(dtype: Any, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), (count, *shape))

    if layout == "bilm":
        words = zeros(np.int32, 2, length)
        spelled = zeros(np.uint16, 2, length, characters)
        return WordRows(words, words, spelled, zeros(bool, 2, length))
    width = {"pairs": 2 * length, "stream": length + 1}.get(layout, length - 2)

    def span(*turns: int) -> TokenSpan:
        tokens, marks = (zeros(each, *turns, width) for each in (np.int32, np.uint8))
        return TokenSpan(tokens, marks, zeros(np.int32, *turns))

    first = span(TURNS) if layout == "dialogues" else span()
    second = span() if layout in ("pairs", "dialogues") else None
    numbers = zeros(np.uint32), zeros(np.uint32, 2)
    return Rows(first, second, *numbers, zeros(bool))


def chunk_starts(
    sentences: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    target: int,
    *,
    block: int = 4_000_000,
) -> np.ndarray:
    """The first tokens of chunks that begin ¾ of a chunk apart, for all documents.

    About `block` sentences are planned at a time, so that memory stays bounded.
    """
    low, high = np.searchsorted(sentences, first), np.searchsorted(sentences, end)
    out, at = [np.zeros(0, np.int64)], 0
    while at < len(low):
        stop = max(at + 1, int(np.searchsorted(low, low[at] + block)))
        out.append(_chunks(sentences, low[at:stop], high[at:stop], target))
        at = stop
    return sentences[np.concatenate(out)]


def _chunks(
    sentences: np.ndarray, this: np.ndarray, document_end: np.ndarray, target: int
) -> np.ndarray:
    """The first sentence of each chunk, found for all documents in parallel."""
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
    return np.sort(np.concatenate(out))
