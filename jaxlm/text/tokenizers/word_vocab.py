"""Words as they stand → ids by frequency; all others keep their spelling: ELMo.

    the cat sat        0 5 912 52003 1        with <S> and </S> round each sentence

The vocabulary is what a softmax tells apart: `<S>`, `</S>`, `<UNK>`, then words, the
commonest first (allenai/bilm-tf, bilm/data.py). A word that it lacks is read by its
characters like any other and is `<UNK>` only as a target, so its spelling is kept: ids
from `vocab_size` on name its other words, in order of appearance.

Words are cut by BERT's rules without lower-casing (`wordpiece.py`: punctuation apart,
an ideograph is a word), or at white space alone where the text is cut already.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlm.text.characters import BEGIN, END
from jaxlm.text.tokenizers.cache import LONGEST, Cache
from jaxlm.text.tokenizers.tokenizer import Encoded, Tokenizer, WordRule
from jaxlm.text.tokenizers.wordpiece import SEPARATOR, basic_words, separated
from jaxlm.types import UserError

UNKNOWN = "<UNK>"
UNKNOWN_ID = 2
MARKS = (BEGIN, END, UNKNOWN)  # the first three entries of a vocabulary
MOST_OOV_WORDS = 1 << 22  # of a corpus; those that come later are `<UNK>` whole
_SKIPPED = "!!!MAXTERMID"  # a line of the released vocabulary that is no word


class WordVocab(Tokenizer):
    """Words in falling frequency behind `<S>`, `</S>` and `<UNK>`."""

    kind = "words"

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lowercase: bool = False,
        words: WordRule = "basic",
    ):
        tokens = [token for token in tokens if token != _SKIPPED]
        super().__init__(tokens)
        if self.tokens[:3] != MARKS:
            raise UserError(
                f"a vocabulary of words begins with {' '.join(MARKS)}, this one with "
                f"{' '.join(self.tokens[:3])}"
            )
        self.lowercase, self.words = lowercase, words
        self._runs = Cache(self._cut_run)
        self._oov_words: dict[str, int] = {}
        self._spelled: list[str] = []

    @property
    def options(self) -> dict:
        """What decides the ids beside the vocabulary."""
        return {"lowercase": self.lowercase, "words": self.words}

    @property
    def boundaries(self) -> tuple[int, int]:
        """`<S>` and `</S>`, stored round each sentence."""
        return 0, 1

    @property
    def keeps_oov_words(self) -> bool:
        """Yes: they are read by their characters."""
        return True

    def cut(self, text: str) -> list[str]:
        """The words of a text."""
        if self.words == "space":
            return text.lower().split() if self.lowercase else text.split()
        runs = separated([text])[:-1]
        return [w for run in runs for w in basic_words(run, lowercase=self.lowercase)]

    def _cut_run(self, run: str) -> tuple[int, ...]:
        if run == SEPARATOR:
            return 1, -1, 0
        if self.words == "space":
            return (self._number(run.lower() if self.lowercase else run),)
        return tuple(map(self._number, basic_words(run, lowercase=self.lowercase)))

    def _number(self, word: str) -> int:
        # A text may hold "<S>": that is a word, not a boundary.
        known = self._ids.get(word, -1)
        if known > 2:
            return known
        # Only the first 48 bytes are read of a word.
        spelling = word[:LONGEST]
        number = self._oov_words.setdefault(spelling, len(self._spelled))
        if number == len(self._spelled):
            self._spelled.append(spelling)
        return self.vocab_size + number

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All `texts` at once, each with its boundaries; none where it has no word."""
        runs = separated(texts) if self.words == "basic" else _spaced(texts)
        ids = itertools.chain.from_iterable(map(self._runs.__getitem__, runs))
        all_ids = np.fromiter(itertools.chain([0], ids), np.int64)[:-1]
        texts_end = np.flatnonzero(all_ids < 0)
        counts = np.diff(texts_end - np.arange(len(texts)), prepend=0)
        ids = all_ids[all_ids >= 0]
        ids = ids[np.repeat(counts > 2, counts)]
        counts = np.where(counts > 2, counts, 0)
        oov = ids >= self.vocab_size
        numbers, first, at = np.unique(ids[oov], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        ids[oov] = self.vocab_size + rank[at]
        spelled = (self._spelled[n - self.vocab_size] for n in numbers[order])
        return Encoded(
            ids.astype(np.int32), np.ones(len(ids), bool), counts, tuple(spelled)
        )

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words with a space between them; others are `<UNK>`."""
        known = (min(int(id), self.vocab_size) for id in ids)
        tokens = (*self.tokens, UNKNOWN)
        return " ".join(tokens[id] for id in known)

    def _save_files(self, directory: Path) -> None:
        lines = "".join(f"{token}\n" for token in self.tokens)
        (directory / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")


def _spaced(texts: Sequence[str]) -> list[str]:
    plain = (text.replace(SEPARATOR, " ") for text in texts)
    return [run for text in plain for run in (*text.split(), SEPARATOR)]
