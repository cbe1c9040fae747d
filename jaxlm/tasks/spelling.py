"""Texts or words → the tokens of a family's rows, and what stands round them.

            begin    a text    between       another one    end
    BERT    [CLS]              [SEP]                        [SEP]
    GPT     start              delimiter                    extract
    ELMo                       </S> <S>

A GPT's three are new, three more ids behind its vocabulary (Radford et al. 2018, figure
1; openai/finetune-transformer-lm train.py).

An ELMo's tokens are words, each its characters; `trunk.py` puts the first `<S>` and the
last `</S>`. Next: `rows.py` joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.config import BertConfig, ElmoConfig, GptConfig, ModelConfig
from jaxlm.text.characters import BEGIN, END, NO_WORD, word_characters
from jaxlm.text.tokenizers import Tokenizer, WordVocab
from jaxlm.types import GPT_FRAME, SpecialTokens, UserError

Tokens = np.ndarray  # int32 [l], or an ELMo's uint16 [l, C]


class Spelling(NamedTuple):
    """How a family's rows are put together."""

    texts: Callable[[Sequence[str]], list[Tokens]]  # each text's
    words: Callable[[Sequence[str]], list[Tokens]]  # each word's, one at least
    begin: Tokens
    between: Tokens
    end: Tokens
    pad: int  # what fills a row
    halves: bool = False  # each of two texts has half of a row, whatever the other has


def spelling_of(config: ModelConfig, tokenizer: Tokenizer) -> Spelling:
    """That of a model and its tokenizer.

    Raises:
        UserError: the tokenizer has not what such rows need.
    """
    match config:
        case BertConfig():
            return _bert(tokenizer)
        case ElmoConfig():
            return _elmo(config, tokenizer)
        case GptConfig():
            return _gpt(tokenizer)


def special_of(tokenizer: Tokenizer) -> SpecialTokens:
    """What a BERT's rows are put together with.

    Raises:
        UserError: the vocabulary has no [CLS] and [SEP].
    """
    if tokenizer.special is None:
        raise UserError("the vocabulary has no [CLS], [SEP] and [PAD], as a BERT's has")
    return tokenizer.special


def _bert(tokenizer: Tokenizer) -> Spelling:
    special = special_of(tokenizer)
    cls, sep = (np.array([i], np.int32) for i in (special.cls, special.sep))
    nothing = np.array([special.unknown], np.int32)

    def texts(each: Sequence[str]) -> list[Tokens]:
        return [ids for ids, _ in tokenizer.encode_batch(each)]

    def words(each: Sequence[str]) -> list[Tokens]:
        # Of control characters alone there are no tokens.
        return [ids if len(ids) else nothing for ids in texts(each)]

    return Spelling(texts, words, cls, sep, sep, special.pad)


def _gpt(tokenizer: Tokenizer) -> Spelling:
    def texts(each: Sequence[str]) -> list[Tokens]:
        return [ids for ids, _ in tokenizer.encode_batch(each)]

    ids = range(tokenizer.vocab_size, tokenizer.vocab_size + len(GPT_FRAME))
    begin, between, end = (np.array([i], np.int32) for i in ids)
    # What fills a row no token sees: id 0, as the release has it.
    return Spelling(texts, texts, begin, between, end, 0, halves=True)


def _elmo(config: ElmoConfig, tokenizer: Tokenizer) -> Spelling:
    if not isinstance(tokenizer, WordVocab):
        raise UserError(f"an ELMo reads words, its vocabulary is {tokenizer.kind}")
    cut = tokenizer.cut

    def spelled(each: Sequence[str]) -> Tokens:
        return word_characters(each, slots=config.max_characters)

    def texts(each: Sequence[str]) -> list[Tokens]:
        # A text without a word is one empty word.
        return [spelled(cut(text) or [""]) for text in each]

    def words(each: Sequence[str]) -> list[Tokens]:
        # They are cut already: what the tokenizer would do to their letters alone.
        return list(spelled(["".join(cut(word)) or word for word in each])[:, None])

    none = spelled([])
    return Spelling(texts, words, none, spelled([END, BEGIN]), none, NO_WORD)
