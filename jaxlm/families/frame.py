"""Texts, pairs or words → the tokens of a family's rows.

            begin    a text    between       another one    end
    BERT    [CLS]              [SEP]                        [SEP]
    GPT     –                  –                            –
    task    start              delimiter                    extract
    ELMo    –                  </S> <S>                     –

A GPT reads plain text. In a task its rows have three tokens that are new, with ids
behind its vocabulary (Radford et al. 2018, figure 1; openai/finetune-transformer-lm
train.py). An ELMo's tokens are words, each a row of characters; `families/elmo.py` adds
the first `<S>` and the last `</S>` on the device. Next: `Family.encode`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.text.characters import BEGIN, END, NO_WORD, word_characters
from jaxlm.text.tokenizers import Tokenizer, WordVocab
from jaxlm.types import GPT_FRAME, SpecialTokens, UserError

Tokens = np.ndarray  # int32 [l], or an ELMo's uint16 [l, C]


@dataclass(frozen=True)
class Frame:
    """How rows of token ids are put together."""

    tokenizer: Tokenizer
    begin: Tokens
    between: Tokens
    end: Tokens
    pad: int
    halves: bool = False  # each of two texts has half of a row, however short the other

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text."""
        return [ids for ids, _ in self.tokenizer.encode_batch(texts)]

    def words(self, words: Sequence[str]) -> list[Tokens]:
        """The tokens of each word of a text that is cut already; at least one each."""
        special = self.tokenizer.special
        # A word of control characters alone has no tokens.
        unknown = np.array([special.unknown] if special else [], np.int32)
        return [ids if len(ids) else unknown for ids in self.texts(words)]

    def spelled(self, text: str) -> tuple[Tokens, list[str]]:
        """The tokens of a text, and each of them as a string."""
        ids = self.tokenizer.encode(text).ids
        return ids, [self.tokenizer.token(int(i)) for i in ids]

    def row(self, tokens: Tokens, second: Tokens | None = None) -> Tokens:
        """One text, or two, with what stands around them."""
        more = [] if second is None else [self.between, second]
        return np.concatenate([self.begin, tokens, *more, self.end])

    def padded(self, rows: Sequence[Tokens], length: int) -> tuple[Tokens, np.ndarray]:
        """Rows in one array [B, length, …], and a mask [B, length] of their tokens."""
        shape = len(rows), length
        tokens = np.full((*shape, *self.begin.shape[1:]), self.pad, self.begin.dtype)
        mask = np.zeros(shape, bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
            mask[i, : len(row)] = True
        return tokens, mask


@dataclass(frozen=True)
class WordFrame(Frame):
    """How rows of words, each a row of characters, are put together."""

    slots: int = 50

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """The characters of each text's words; one empty word where it has none."""
        return [self.spelled(text)[0] for text in texts]

    def words(self, words: Sequence[str]) -> list[Tokens]:
        """The characters of words, with their letters as the tokenizer has them."""
        cut = ["".join(self._cut(word)) or word for word in words]
        return list(word_characters(cut, slots=self.slots)[:, None])

    def spelled(self, text: str) -> tuple[Tokens, list[str]]:
        """The characters of a text's words, one empty word where it has none; and its
        words."""
        words = self._cut(text)
        return word_characters(words or [""], slots=self.slots), words

    def _cut(self, text: str) -> list[str]:
        assert isinstance(self.tokenizer, WordVocab)
        return self.tokenizer.cut(text)


def special_of(tokenizer: Tokenizer) -> SpecialTokens:
    """The special tokens of a BERT's vocabulary.

    Raises:
        UserError: the vocabulary has no [CLS] and [SEP].
    """
    if tokenizer.special is None:
        raise UserError("the vocabulary has no [CLS], [SEP] and [PAD], as a BERT's has")
    return tokenizer.special


def bert_frame(tokenizer: Tokenizer) -> Frame:
    """[CLS] … [SEP] … [SEP].

    Raises:
        UserError: the vocabulary has no [CLS] and [SEP].
    """
    special = special_of(tokenizer)
    cls, sep = (np.array([i], np.int32) for i in (special.cls, special.sep))
    return Frame(tokenizer, cls, sep, sep, special.pad)


def gpt_frame(tokenizer: Tokenizer, *, task: bool) -> Frame:
    """Plain text, or the rows of a task with their three new tokens."""
    none = np.zeros(0, np.int32)
    if not task:
        return Frame(tokenizer, none, none, none, 0)
    ids = range(tokenizer.vocab_size, tokenizer.vocab_size + len(GPT_FRAME))
    begin, between, end = (np.array([i], np.int32) for i in ids)
    # No token sees what fills a row: id 0, as in the release.
    return Frame(tokenizer, begin, between, end, 0, halves=True)


def elmo_frame(tokenizer: Tokenizer, slots: int) -> WordFrame:
    """Words of `slots` characters.

    Raises:
        UserError: the vocabulary is not of words.
    """
    if not isinstance(tokenizer, WordVocab):
        raise UserError(f"an ELMo reads words, its vocabulary is {tokenizer.kind}")
    none, between = (word_characters(w, slots=slots) for w in ([], [END, BEGIN]))
    return WordFrame(tokenizer, none, between, none, NO_WORD, slots=slots)
