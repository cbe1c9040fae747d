"""Words → ELMo's character ids: UTF-8 bytes between marks, in a fixed number of slots.

    cat   259  100 98 117  260  261 261 261 …      begin, each byte + 1, end, padding
    <S>   259  257         260  261 261 261 …
          0    0   0       0    0   0   0   …      no word: a row that has ended

allenai/bilm-tf (bilm/data.py: UnicodeCharsVocabulary, Batcher) numbers characters from
0 to 260 in training, and adds 1 when a model is used, so that 0 can mean no word. Here
ids are always 1 to 261, and 0 for no word; released weights get a zero row in front.
`check_characters` tells the two numberings apart.

As in the original, only the first `slots` - 2 bytes of a word are read, even if they
end inside a character. An empty word is a begin and an end (AllenNLP's rule; the
original fails). Next: `models/elmo.py`.
"""

from collections.abc import Sequence

import numpy as np

from jaxlm.types import UserError

SLOTS = 50
NO_WORD = 0
# Bytes 0 to 255 are 1 to 256.
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD = range(257, 262)
NUM_CHARACTERS = 262
# As in bilm-tf and AllenNLP, words with these spellings are a sentence's boundaries.
BEGIN, END = "<S>", "</S>"


def word_characters(words: Sequence[str], *, slots: int = SLOTS) -> np.ndarray:
    """uint16 [words, slots], a row for each word; surrogates are left out.

    `slots` is at least 3.
    """
    spelled = [word.encode("utf-8", "ignore")[: slots - 2] for word in words]
    counts = np.array([len(each) for each in spelled], np.int64)
    ids = np.full((len(words), slots), PAD, np.uint16)
    ids[:, 0] = BEGIN_WORD
    text = np.frombuffer(b"".join(spelled), np.uint8)
    ids[:, 1:-1][np.arange(slots - 2) < counts[:, None]] = text.astype(np.uint16) + 1
    ids[np.arange(len(words)), counts + 1] = END_WORD
    for row, word in zip(ids, words, strict=True):
        if word in (BEGIN, END):
            mark = BEGIN_SENTENCE if word == BEGIN else END_SENTENCE
            row[:] = PAD
            row[:3] = BEGIN_WORD, mark, END_WORD
    return ids


def spelled_words(ids: np.ndarray) -> list[str]:
    """The words of ids [words, slots], as far as they were read."""
    check_characters(ids)
    marks = {BEGIN_SENTENCE: BEGIN, END_SENTENCE: END}
    words = []
    for row in ids[ids[:, 0] != NO_WORD].astype(int):
        spelled = row[(row > 0) & (row < BEGIN_SENTENCE)] - 1
        text = spelled.astype(np.uint8).tobytes().decode("utf-8", "ignore")
        words.append(marks.get(row[1], text))
    return words


def check_characters(ids: np.ndarray) -> None:
    """Raise UserError if `ids` [..., slots] are numbered otherwise or out of range."""
    if not ids.size:
        return
    if ids.min() < 0 or ids.max() >= NUM_CHARACTERS:
        run = f"character ids run from {ids.min()} to {ids.max()}"
        raise UserError(f"{run}, not from 0 (no word) to {NUM_CHARACTERS - 1}")
    first = ids[..., 0]
    wrong = first[(first != BEGIN_WORD) & (first != NO_WORD)]
    if wrong.size:
        training = wrong[0] == BEGIN_WORD - 1
        hint = ": these are the 261 ids of bilm-tf's training, add 1 to all of them"
        what = f"a word's character ids begin with {wrong[0]}, not with {BEGIN_WORD}"
        raise UserError(what + hint * bool(training))
