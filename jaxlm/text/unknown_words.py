"""Warn of texts whose words are mostly outside the vocabulary, because their figures
and vectors mean nothing."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from jaxlm.text.characters import BEGIN, END
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.tokenizer import SPECIAL
from jaxlm.text.tokenizers.words import MARKS, UNKNOWN
from jaxlm.types import note


def counted(tokenizer: Tokenizer, ids: np.ndarray) -> Counter[str]:
    """How often each token occurs; ELMo's words outside the vocabulary are `<UNK>`."""
    found, size = Counter[str](), tokenizer.vocab_size
    for id, count in zip(*np.unique(ids, return_counts=True), strict=True):
        if id < size:
            found[tokenizer.tokens[id]] += int(count)
        elif tokenizer.keeps_oov_words:
            found[UNKNOWN] += int(count)
    return found


def warn_unknown(tokenizer: Tokenizer, counts: Mapping[str, int]) -> None:
    """Warn if more than half of a text's tokens stand for unknown words."""
    names = tokenizer.special_names
    unknown = UNKNOWN if tokenizer.keeps_oov_words else names.get(SPECIAL[1])
    if unknown is None or tokenizer.tokens == MARKS:  # it knows all words, or none
        return
    special = {*names.values(), BEGIN, END} - {unknown}
    words = {token: n for token, n in counts.items() if token not in special}
    lacks = (n for t, n in words.items() if t == unknown or tokenizer.id(t) is None)
    lacking, total = sum(lacks), sum(words.values())
    if 2 * lacking > total:
        note(
            f"{lacking / total:.0%} of {total:,} tokens are {unknown}, words that the "
            "vocabulary lacks: is this text of the model's language?"
        )
