"""Prompts → ids; generated tokens → text as it comes, cut before stop strings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.generate.decode import Continuation
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


class Generated(NamedTuple):
    """What follows a prompt."""

    text: str
    tokens: np.ndarray  # int32 [n]
    scores: np.ndarray | None  # float32 [n] log-probabilities; of a beam its one score


def encode_prompt(tokenizer: Tokenizer, prompt: str, room: int) -> np.ndarray:
    """Ids of a prompt, truncated on the left to `room`.

    An empty prompt becomes <|endoftext|>, after which a document begins.

    Raises:
        UserError: it is empty, and the vocabulary has no <|endoftext|>.
    """
    ids = tokenizer.encode(prompt, specials=True).ids
    if len(ids):
        return ids[-room:]
    if tokenizer.end_of_document is None:
        raise UserError("an empty prompt, and a vocabulary without <|endoftext|>")
    return np.array([tokenizer.end_of_document], np.int32)


@dataclass
class TextStream:
    """Follows the rows of a generation: shows the first one and finds stop strings."""

    tokenizer: Tokenizer
    stop: tuple[str, ...]
    show: Callable[[str], None] | None  # called with each new piece of the first row
    shown: int = 0  # characters

    def watch(self, rows: list[np.ndarray]) -> list[bool]:
        """Whether each row has reached a stop string; the argument of `decode`."""
        texts = [self.tokenizer.decode(row) for row in rows]
        ends = [self._end(text) for text in texts]
        # Characters that may still change, or become a stop string, are held back.
        hold = 0 if ends[0] is not None else self._unsettled(texts[0])
        text = texts[0][: ends[0]]
        self._say(text[: len(text) - hold])
        return [end is not None for end in ends]

    def finish(self, number: int, row: Continuation) -> Generated:
        """The text of row `number`, cut before its first stop string."""
        tokens, scores = row
        text = self.tokenizer.decode(tokens)
        end = self._end(text)
        if end is not None:
            text = text[:end]
            tokens = tokens[: self._tokens_within(tokens, end)]
            if scores is not None:
                scores = scores[: len(tokens)]
        if number == 0:
            self._say(text)
        return Generated(text, tokens, scores)

    def _say(self, text: str) -> None:
        if self.show and len(text) > self.shown:
            self.show(text[self.shown :])
            self.shown = len(text)

    def _end(self, text: str) -> int | None:
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        return min(found, default=None)

    def _unsettled(self, text: str) -> int:
        """How many characters at the end more tokens may change or complete."""
        starts = (stop[:n] for stop in self.stop for n in range(1, len(stop)))
        partial = max((len(each) for each in starts if text.endswith(each)), default=0)
        broken = len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        return max(partial, broken)

    def _tokens_within(self, tokens: np.ndarray, end: int) -> int:
        """How many tokens lie wholly before character `end`."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self.tokenizer.decode(tokens[:middle])) <= end
            low, high = (middle, high) if fits else (low, middle - 1)
        return low
