"""Byte-pair encoding and the pair of files that holds it, for GPT-1 and GPT-2."""

import abc
import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.tokenizers.tokenizer import Tokenizer, checked_tokens
from jaxlm.types import UserError

Pairs = Sequence[Sequence[str]]


class Bpe(Tokenizer):
    """Tokens, and the pairs of them that are merged, the most urgent first.

    A word, for masking and for `word_start`, is what the library cuts before it merges.
    """

    def __init__(self, tokens: Sequence[str], merges: Pairs, **options: Any):
        super().__init__(tokens, **options)
        self.merges = tuple((left, right) for left, right in merges)

    def _content(self) -> bytes:
        return super()._content() + json.dumps(self.merges).encode()

    @abc.abstractmethod
    def _new_library(self) -> Library:
        """The library's tokenizer, without special tokens."""

    @cached_property
    def _library(self) -> Library:
        return self._new_library()

    def _cut(self, run: str) -> tuple[int, ...]:
        found = self._library.encode(run)
        words = itertools.pairwise([None, *found.word_ids])
        pairs = zip(found.ids, words, strict=True)
        return tuple(id if word == before else ~id for id, (before, word) in pairs)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the tokens; byte-level, the very text that was encoded."""
        return self._library.decode([int(id) for id in ids], skip_special_tokens=False)

    @classmethod
    def read(cls, directory: Path, **options: Any) -> Tokenizer:
        """The tokenizer whose pair of files `save` has written."""
        pair = read_pair(directory / "vocab.json", directory / "merges.txt")
        return cls(*pair, **options)

    def _save_vocabulary(self, directory: Path) -> None:
        write_json(directory / "vocab.json", self._ids)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        text = "".join(f"{line}\n" for line in lines)
        (directory / "merges.txt").write_text(text, encoding="utf-8", newline="\n")


def read_pair(vocabulary: Path, merges: Path) -> tuple[tuple[str, ...], Pairs]:
    """Tokens and merges of OpenAI's or Hugging Face's pair of files.

    Raises:
        UserError: a file cannot be read, or they do not fit.
    """
    tokens = in_order_of_id(read_json(vocabulary), vocabulary)
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges} cannot be read: {error}") from None
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return tokens, checked_merges(tokens, pairs, merges)


def checked_merges(tokens: Sequence[str], pairs: Pairs, path: Path) -> Pairs:
    """`pairs`; UserError if one of them does not give a known token."""
    known = set(tokens)
    for pair in pairs:
        if len(pair) != 2 or pair[0] + pair[1] not in known:
            raise UserError(
                f"{path}: the merge {' '.join(pair)!r} gives no known token"
            )
    return pairs


def in_order_of_id(ids: dict, path: Path) -> tuple[str, ...]:
    """Tokens by id from a `{token: id}` object; UserError unless ids are 0 … n - 1."""
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{path}: ids are not 0 to {len(tokens) - 1}, each once")
    return checked_tokens(tokens, path)
