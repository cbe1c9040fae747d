"""Byte-level BPE as GPT-2 does it: every text has ids, no token is unknown.

A word, for masking and for `word_start`, is what GPT-2's pattern cuts: letters, digits
or other characters with the space before them, and the English endings ('s, 't, 're …).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from jaxlm.text.memory import Memory
from jaxlm.text.vocabulary import (
    Encoded,
    Tokenizer,
    checked_tokens,
    encoded,
    read_json,
    write_json,
    write_library,
)
from jaxlm.text.words import Gpt2Words
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


class ByteBpe(Tokenizer):
    """A `vocab.json` and a `merges.txt`."""

    kind = "byte_bpe"
    line_end = "Ċ"

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[Sequence[str]],
        *,
        prefix_space: bool = False,
    ):
        super().__init__(tokens)
        self.merges = tuple((left, right) for left, right in merges)
        self.prefix_space = prefix_space
        self._words = Gpt2Words()
        self._pieces = Memory(self._cut)
        lacking = set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens)
        if lacking:
            raise UserError(
                f"a byte-level vocabulary has all 256 bytes; {len(lacking)} lack"
            )

    @property
    def options(self) -> dict:
        """What decides the ids beside vocabulary and merges."""
        return {"prefix_space": self.prefix_space}

    def _content(self) -> bytes:
        return super()._content() + json.dumps(self.merges).encode()

    @cached_property
    def _library(self) -> Library:
        library = Library(self._model)
        library.pre_tokenizer = pre_tokenizers.ByteLevel(self.prefix_space)
        library.decoder = decoders.ByteLevel()
        return library

    @cached_property
    def _model(self) -> models.BPE:
        return models.BPE(self._ids, list(self.merges))

    def _cut(self, word: str) -> tuple[int, ...]:
        return tuple(piece.id for piece in self._model.tokenize(spelled(word)))

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All `texts` at once; 4 to 8 MB/s on one core, 1 in recent scripts."""
        return encoded([self._encode(text) for text in texts])

    def _encode(self, text: str) -> tuple[Sequence[int] | np.ndarray, np.ndarray]:
        words = None if self.prefix_space else self._words(text)
        if words is None:
            found = self._library.encode(text)
            word = np.array(found.word_ids, np.int64)
            return found.ids, np.diff(word, prepend=-1) != 0
        pieces = list(map(self._pieces.__getitem__, words))
        ids = np.fromiter(itertools.chain.from_iterable(pieces), np.int32)
        counts = np.fromiter(map(len, pieces), np.int64, len(pieces))
        word_start = np.zeros(len(ids), bool)
        word_start[np.cumsum(counts) - counts] = True
        return ids, word_start

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text that was encoded."""
        return self._library.decode([int(id) for id in ids], skip_special_tokens=False)

    def _save_files(self, directory: Path) -> None:
        write_json(directory / "vocab.json", self._ids)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        text = "".join(f"{line}\n" for line in lines)
        (directory / "merges.txt").write_text(text, encoding="utf-8", newline="\n")
        library = Library.from_str(self._library.to_str())
        library.add_special_tokens(list(dict.fromkeys(self.special_names.values())))
        write_library(directory, library)
        self._save_config(directory, "PreTrainedTokenizerFast")


def read_bpe(vocabulary: Path, merges: Path) -> ByteBpe:
    """OpenAI's or Hugging Face's pair of files.

    Raises:
        UserError: a file cannot be read, or they do not fit.
    """
    tokens = in_order_of_id(read_json(vocabulary), vocabulary)
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges} cannot be read: {error}") from None
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return bpe(tokens, pairs, merges)


def bpe(
    tokens: Sequence[str], pairs: Sequence[Sequence[str]], path: Path, **options
) -> ByteBpe:
    """A tokenizer, once every merge is known to give a token."""
    known = set(tokens)
    for pair in pairs:
        if len(pair) != 2 or pair[0] + pair[1] not in known:
            raise UserError(
                f"{path}: the merge {' '.join(pair)!r} gives no known token"
            )
    return ByteBpe(tokens, pairs, **options)


def in_order_of_id(ids: dict, path: Path) -> tuple[str, ...]:
    """Tokens by id from a `{token: id}` object; UserError unless ids are 0 … n - 1."""
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{path}: ids are not 0 to {len(tokens) - 1}, each once")
    return checked_tokens(tokens, path)
