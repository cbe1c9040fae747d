"""Corpora in memory in which each token's id is its position.

A row then shows where each of its tokens was read, so a test can measure which parts
of the corpus reach a batch and how often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from jaxlm.text.corpus import Corpus
from jaxlm.types import Mark, SpecialTokens

FIRST = 5  # ids below are special
NAMES = ("aa", "bb", "cc")  # of languages
END = 1  # the last token of each document, where asked


@dataclass(frozen=True)
class Numbered(Corpus):
    """Token i of the corpus has the id i + FIRST."""

    marks: np.ndarray = None  # uint8, one a token
    ended: bool = False  # each document's last token is `END`

    @property
    def num_tokens(self) -> int:
        return len(self.marks)

    @property
    def sha256(self) -> str:
        return "0" * 64

    def read(
        self, starts: np.ndarray, width: int, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.full_like(starts, width) if lengths is None else lengths
        at = starts[:, None] + np.arange(width)
        there = at < np.minimum(starts + lengths, self.num_tokens)[:, None]
        marks = self.marks[np.where(there, at, 0)]
        tokens = np.where(there, at + FIRST, 0).astype(np.int32)
        if self.ended:
            tokens[there & np.isin(at, self.ends - 1)] = END
        return tokens, np.where(there, marks, 0)

    @property
    def end_of_document(self) -> int | None:
        return END if self.ended else None

    @property
    def special(self) -> SpecialTokens:
        # One size for all corpora: tests of one shape share one compiled transform.
        return SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4, vocab_size=1 << 22)

    @property
    def ends(self) -> np.ndarray:
        """Token after the last of each document."""
        return np.append(self.documents[1:, 0], self.num_tokens)

    def as_lists(self) -> list[list[list[int]]]:
        """Positions by document and sentence, for the reference."""
        bounds = [*self.sentences.tolist(), self.num_tokens]
        starts = np.searchsorted(self.sentences, self.documents[:, 0]).tolist()
        starts.append(len(self.sentences))
        return [
            [list(range(*bounds[s : s + 2])) for s in range(*starts[d : d + 2])]
            for d in range(len(self.documents))
        ]


def numbered(
    documents: list[list[int]],
    directory: Path | str,
    *,
    words: list[int] | None = None,
    held_out: tuple[int, ...] = (),
    ended: bool = False,
    languages: list[int] | None = None,
) -> Numbered:
    """A corpus with the given lengths.

    Args:
        documents: the number of tokens of each sentence, by document.
        directory: where plans may be cached.
        words: the number of tokens of each word; sentences end words. None: all 1.
        held_out: the documents of split 1, by number.
        ended: end each document with the id `END`, as in a decoder's corpus.
        languages: each document's language, ascending; None: all of one language.
    """
    lengths = [length for sentences in documents for length in sentences]
    sentences = np.cumsum([0, *lengths], dtype=np.int64)
    counts = np.cumsum([0, *map(len, documents)])[:-1]
    table = np.zeros((len(documents), 3), np.int64)
    table[:, 0] = sentences[counts]
    table[list(held_out), 2] = 1
    if languages is not None:
        table[:, 1] = languages
    marks = np.zeros(sentences[-1], np.uint8)
    starts = np.arange(len(marks)) if words is None else np.cumsum([0, *words])
    marks[starts[starts < len(marks)]] |= int(Mark.WORD)
    marks[sentences[:-1]] |= int(Mark.SENTENCE | Mark.WORD)
    marks[table[:, 0]] |= int(Mark.DOCUMENT)
    manifest = SimpleNamespace(languages=NAMES)
    return Numbered(
        str(directory),
        Path(directory),
        manifest,
        sentences[:-1],
        table,
        marks=marks,
        ended=ended,
    )


def lifelike(seed: int, documents: int, sentences: tuple[int, ...]) -> list[list[int]]:
    """Sentence lengths as prose has them: log-normal, mean 24, none above 120.

    Args:
        seed: of the draw.
        documents: how many.
        sentences: numbers of sentences that a document may have, drawn uniformly.
    """
    rng = random.Random(seed)
    return [
        [
            min(120, max(1, round(rng.lognormvariate(3, 0.6))))
            for _ in range(rng.choice(sentences))
        ]
        for _ in range(documents)
    ]
