"""Byte-level BPE as GPT-2 does it: every text has ids, no token is unknown.

A word is what GPT-2's pattern cuts: letters, digits or other characters with the space
before them, and the English endings ('s, 't, 're …).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from jaxlm.text.tokenizers.bpe import Bpe, Pairs
from jaxlm.text.tokenizers.gpt2_words import Gpt2Words
from jaxlm.text.tokenizers.tokenizer import write_library
from jaxlm.types import UserError

# The library's threads would take every core of a shared machine, to no other result.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How a byte is spelled in vocabulary and merges (openai/gpt-2, src/encoder.py:
# bytes_to_unicode): what prints is itself, the others follow from U+0100 on, in order.
_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_SPELLED = [
    chr(byte if byte in _PRINTED else 0x100 + _OTHERS.index(byte))
    for byte in range(256)
]


def spelled(word: str) -> str:
    """A word in the characters that stand for its bytes: " the" is "Ġthe"."""
    return "".join(map(_SPELLED.__getitem__, word.encode()))


class ByteBpe(Bpe):
    """A `vocab.json` and a `merges.txt`."""

    kind = "byte_bpe"
    line_end = "Ċ"

    def __init__(
        self, tokens: Sequence[str], merges: Pairs, *, prefix_space: bool = False
    ):
        super().__init__(tokens, merges)
        self.prefix_space = prefix_space
        self._words = Gpt2Words()
        lacking = set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens)
        if lacking:
            raise UserError(
                f"a byte-level vocabulary has all 256 bytes; {len(lacking)} lack"
            )

    @property
    def options(self) -> dict:
        """What decides the ids beside vocabulary and merges."""
        return {"prefix_space": self.prefix_space}

    @cached_property
    def _model(self) -> models.BPE:
        return models.BPE(self._ids, list(self.merges))

    @cached_property
    def _library(self) -> Library:
        library = Library(self._model)
        library.pre_tokenizer = pre_tokenizers.ByteLevel(self.prefix_space)
        library.decoder = decoders.ByteLevel()
        return library

    def _runs(self, text: str) -> list[str] | None:
        return None if self.prefix_space else self._words(text)

    def _cut(self, run: str) -> tuple[int, ...]:
        return self._cut_word(spelled(run))

    def _save_files(self, directory: Path) -> None:
        self._save_pair(directory)
        library = Library.from_str(self._library.to_str())
        library.add_special_tokens(list(dict.fromkeys(self.special_names.values())))
        write_library(directory, library)
        self._save_config(directory, "PreTrainedTokenizerFast")
