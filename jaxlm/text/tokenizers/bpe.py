"""Byte-pair encoding of words that are looked at once: what GPT-1 and GPT-2 share."""

from __future__ import annotations

import abc
import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import models

from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.tokenizers.cache import Cache
from jaxlm.text.tokenizers.tokenizer import Encoded, Tokenizer, checked_tokens, encoded
from jaxlm.types import UserError

Pairs = Sequence[Sequence[str]]


class Bpe(Tokenizer):
    """Tokens, and the pairs of them that are merged, the most urgent first.

    A word, for masking and for `word_start`, is what is encoded at a time.
    """

    def __init__(self, tokens: Sequence[str], merges: Pairs):
        super().__init__(tokens)
        self.merges = tuple((left, right) for left, right in merges)
        self._pieces = Cache(self._cut)  # of runs

    def _content(self) -> bytes:
        return super()._content() + json.dumps(self.merges).encode()

    @property
    @abc.abstractmethod
    def _model(self) -> models.BPE: ...

    @cached_property
    @abc.abstractmethod
    def _library(self) -> Library: ...

    @abc.abstractmethod
    def _runs(self, text: str) -> list[str] | None:
        """What of a text is looked at once: words; None: the library must say."""

    def _cut(self, run: str) -> tuple[int, ...]:
        """Ids of a run of text; ~id where a word starts."""
        return self._cut_word(run)

    def _cut_word(self, word: str) -> tuple[int, ...]:
        first, *rest = (piece.id for piece in self._model.tokenize(word))
        return ~first, *rest

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All `texts` at once; 4 to 8 MB/s on one core, 1 where the library must say.

        Raises:
            UserError: what cuts words is not installed.
        """
        return encoded([self._encode(text) for text in texts])

    def _encode(self, text: str) -> tuple[Sequence[int] | np.ndarray, np.ndarray]:
        runs = self._runs(text)
        if runs is None:
            found = self._library.encode(text)
            word = np.array(found.word_ids, np.int64)
            return found.ids, np.diff(word, prepend=-1) != 0
        pieces = map(self._pieces.__getitem__, runs)
        ids = np.fromiter(itertools.chain.from_iterable(pieces), np.int32)
        return np.where(ids < 0, ~ids, ids), ids < 0

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the tokens; byte-level, the very text that was encoded."""
        return self._library.decode([int(id) for id in ids], skip_special_tokens=False)

    def _save_pair(self, directory: Path) -> None:
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
    """`pairs`, each of which gives a known token; UserError names one that does not."""
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
