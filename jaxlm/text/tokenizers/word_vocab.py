"""ELMo's words: ids by frequency; words outside the vocabulary keep their spelling.

    the cat sat        0 5 912 52003 1        with <S> and </S> round each sentence

The vocabulary is what the softmax covers: `<S>`, `</S>`, `<UNK>`, then words, the
most frequent first (allenai/bilm-tf, bilm/data.py). Another word is read by its
characters like any other and is `<UNK>` only as a target, so its spelling is kept: ids
from `vocab_size` on name such words of the texts, in order of appearance.

Words are cut by BERT's rules (`wordpiece.py`: punctuation apart, an ideograph is a
word), or at white space alone if the text is cut already.
"""

from collections.abc import Sequence

import numpy as np

from jaxlm.text.characters import BEGIN, END
from jaxlm.text.tokenizers.tokenizer import Encoded, Tokenizer, WordRule
from jaxlm.text.tokenizers.wordpiece import basic_words, runs_of
from jaxlm.types import UserError

UNKNOWN = "<UNK>"
BOUNDARIES, UNKNOWN_ID = (0, 1), 2
MARKS = (BEGIN, END, UNKNOWN)  # the first three entries of a vocabulary
MOST_OOV_WORDS = 1 << 22  # of a corpus; later ones are `<UNK>` whole
_LONGEST = 200  # characters of a word that are kept; its first 48 bytes are read
_SKIPPED = "!!!MAXTERMID"  # a line of the released vocabulary that is no word


class WordVocab(Tokenizer):
    """Words in falling frequency behind `<S>`, `</S>` and `<UNK>`."""

    kind = "words"
    boundaries = BOUNDARIES
    keeps_oov_words = True

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lowercase: bool = False,
        words: WordRule = "basic",
    ):
        tokens = [token for token in tokens if token != _SKIPPED]
        super().__init__(tokens, lowercase=lowercase, words=words)
        if self.tokens[:3] != MARKS:
            raise UserError(
                f"a vocabulary of words begins with {' '.join(MARKS)}, this one with "
                f"{' '.join(self.tokens[:3])}"
            )
        self.lowercase, self.words = lowercase, words
        self._oov: dict[str, int] = {}  # each word's id, rising
        self._spelled: list[str] = []

    def _runs(self, text: str) -> list[str]:
        return text.split() if self.words == "space" else runs_of(text)

    def _words(self, run: str) -> list[str]:
        if self.words == "space":
            return [run.lower() if self.lowercase else run]
        return basic_words(run, lowercase=self.lowercase)

    def cut(self, text: str) -> list[str]:
        """The words of a text."""
        return [word for run in self._runs(text) for word in self._words(run)]

    def _cut(self, run: str) -> tuple[int, ...]:
        return tuple(map(self._id_of, self._words(run)))

    def _id_of(self, word: str) -> int:
        # A text may hold "<S>": that is a word, not a boundary.
        known = self._ids.get(word, -1)
        if known > 2:
            return known
        spelling = word[:_LONGEST]
        if spelling not in self._oov:
            self._oov[spelling] = self.vocab_size + len(self._spelled)
            self._spelled.append(spelling)
        return self._oov[spelling]

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All texts at once, each with its boundaries unless it has no word."""
        ids, _, counts, _ = super().encode_flat(texts)
        filled = counts[counts > 0]
        ends = np.cumsum(filled)
        edges = np.stack([ends - filled, ends], axis=1).ravel()
        ids = np.insert(ids, edges, np.tile(BOUNDARIES, len(filled)))
        oov = ids >= self.vocab_size
        # Numbered anew, in order of appearance in these texts.
        number = {id: i for i, id in enumerate(dict.fromkeys(ids[oov].tolist()))}
        ids[oov] = [self.vocab_size + number[id] for id in ids[oov].tolist()]
        words = tuple(self._spelled[id - self.vocab_size] for id in number)
        counts = counts + 2 * (counts > 0)
        return Encoded(ids, np.ones(len(ids), bool), counts, words)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words with a space between them; those outside it are `<UNK>`."""
        tokens = (*self.tokens, UNKNOWN)
        return " ".join(tokens[min(int(id), self.vocab_size)] for id in ids)
