"""Texts around `decode.py`: prompts → ids, tokens as they come → text, stop strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxlm.generate.decode import Continuation
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.types import UserError


class Generated(NamedTuple):
    """What follows a prompt."""

    text: str
    tokens: np.ndarray  # int32 [n]
    scores: np.ndarray | None  # float32 [n], log-probabilities, where asked for


def cut_prompt(tokenizer: Tokenizer, prompt: str, room: int) -> np.ndarray:
    """Ids of a prompt, its last `room` ones where it is longer.

    An empty one is <|endoftext|>, after which a document begins.

    Raises:
        UserError: it is empty, and the vocabulary has no <|endoftext|>.
    """
    ids = tokenizer.encode(prompt, specials=True).ids
    if len(ids):
        return ids[-room:]
    if tokenizer.end_of_document is None:
        raise UserError("an empty prompt, and a vocabulary without <|endoftext|>")
    return np.array([tokenizer.end_of_document], np.int32)


class TextStream:
    """Follows the rows of a generation: shows the first one, finds stop strings.

    Args:
        tokenizer: of the model.
        stop: strings before which a row ends.
        show: called with each new stretch of the first row's text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...],
        show: Callable[[str], None] | None,
    ):
        self._tokenizer, self._stop, self._show = tokenizer, stop, show
        self._shown = 0

    def watch(self, rows: list[np.ndarray]) -> list[bool]:
        """Whether each row has reached a stop string; `decode`'s argument."""
        texts = [self._tokenizer.decode(row) for row in rows]
        ends = [self._end(text) for text in texts]
        if self._show:
            # What may still become a stop string, or a whole character, waits.
            hold = 0 if ends[0] is not None else self._open_end(texts[0])
            text = texts[0][: ends[0]]
            self._say(text[: len(text) - hold])
        return [end is not None for end in ends]

    def finish(self, number: int, row: Continuation) -> Generated:
        """The text of a row, cut before its first stop string."""
        text = self._tokenizer.decode(row.tokens)
        end = self._end(text)
        tokens, scores = row
        if end is not None:
            text = text[:end]
            tokens = tokens[: self._tokens_within(tokens, end)]
            scores = None if scores is None else scores[: len(tokens)]
        if number == 0 and self._show:
            self._say(text)
        return Generated(text, tokens, scores)

    def _say(self, text: str) -> None:
        if len(text) > self._shown:
            assert self._show is not None
            self._show(text[self._shown :])
            self._shown = len(text)

    def _end(self, text: str) -> int | None:
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        return min(found, default=None)

    def _open_end(self, text: str) -> int:
        """Characters at the end that more text may change or turn into a stop."""
        partial = max(
            (
                n
                for stop in self._stop
                for n in range(1, len(stop))
                if text.endswith(stop[:n])
            ),
            default=0,
        )
        broken = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        return max(partial, broken)

    def _tokens_within(self, tokens: np.ndarray, end: int) -> int:
        """How many tokens lie wholly before character `end`."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self._tokenizer.decode(tokens[:middle])) <= end
            low, high = (middle, high) if fits else (low, middle - 1)
        return low
