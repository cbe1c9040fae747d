"""Texts → a WordPiece vocabulary: the same bytes for the same texts, in any process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from jaxlm.text.vocabulary import SPECIAL, padded
from jaxlm.text.wordpiece import WordPiece, basic_words, separated
from jaxlm.types import UserError

# The library's threads would take every core of a shared machine, to no other result.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MOST_WORDS = 1 << 19  # distinct ones that are counted, and half of them learnt from


def train_wordpiece(
    texts: Iterable[str], *, vocab_size: int, lowercase: bool
) -> WordPiece:
    """WordPiece of `vocab_size` entries: [PAD] [UNK] [CLS] [SEP] [MASK], characters,
    pieces; `[unusedN]` at the end if the texts yield fewer.

    Raises:
        UserError: `vocab_size` is too small for the special tokens and the characters.
    """
    words = count_words(texts, lowercase=lowercase)
    # The library numbers "##c" in an order that changes from process to process, and
    # breaks ties by number: given as special tokens, sorted, they have fixed numbers.
    continuing = sorted({f"##{char}" for word in words for char in word[1:]})
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *continuing],
        limit_alphabet=1 << 30,
        show_progress=False,
    )
    library.train_from_iterator(_repeated(words), trainer)
    vocabulary = library.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if len(tokens) > vocab_size:
        raise UserError(f"model.vocab_size = {vocab_size} is below {len(tokens)}")
    return WordPiece(padded(tokens, vocab_size), lowercase=lowercase)


def count_words(texts: Iterable[str], *, lowercase: bool) -> dict[str, int]:
    """The words of the texts, most frequent first; bounded: some of the rarest lack."""
    runs: Counter[str] = Counter()
    texts, rarest = iter(texts), 0
    while batch := list(islice(texts, 10_000)):
        runs.update(separated(batch))
        while len(runs) > MOST_WORDS:
            rarest += 1
            runs = Counter({run: n for run, n in runs.items() if n > rarest})
    words: Counter[str] = Counter()
    for run, count in runs.items():
        for word in basic_words(run, lowercase=lowercase):
            words[word] += count
    ordered = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[: MOST_WORDS // 2])


def _repeated(words: dict[str, int]) -> Iterator[str]:
    """Texts in which each word stands as often as it was counted."""
    for word, count in words.items():
        for done in range(0, count, 1000):
            yield f"{word} " * min(1000, count - done)
