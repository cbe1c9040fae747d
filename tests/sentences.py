"""Sentences as ELMo reads them, in one array."""

import numpy as np

from jaxlm.text.characters import BEGIN, END, NO_WORD, SLOTS, word_characters


def sentence_characters(sentences, *, slots=SLOTS):
    """`<S>` words `</S>` of each sentence: (uint16 [B, L, slots], mask bool [B, L])."""
    rows = [(BEGIN, *sentence, END) for sentence in sentences]
    length = max(map(len, rows), default=0)
    mask = np.zeros((len(rows), length), bool)
    for row, words in zip(mask, rows, strict=True):
        row[: len(words)] = True
    ids = np.full((len(rows), length, slots), NO_WORD, np.uint16)
    ids[mask] = word_characters([word for row in rows for word in row], slots=slots)
    return ids, mask
