"""Prompts → ids; generated tokens → streamed text, cut before stop strings."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.generate.decode import Continuation
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


class Generated(NamedTuple):
    """The continuation of a prompt, as text and tokens."""

    text: str
    tokens: np.ndarray  # int32 [n]
    scores: np.ndarray | None  # float32 [n] log-probabilities; of a beam its one score


def encode_prompt(tokenizer: Tokenizer, prompt: str, room: int) -> np.ndarray:
    """The ids of a prompt, truncated on the left to `room` ids.

    An empty prompt becomes the token that begins a text, mostly <|endoftext|>.
    """
    ids = tokenizer.encode(prompt, specials=True).ids
    if len(ids):
        return ids[-room:]
    if tokenizer.begin_of_text is None:
        raise UserError("an empty prompt, and a vocabulary without <|endoftext|>")
    return np.array([tokenizer.begin_of_text], np.int32)


@dataclass
class TextStream:
    """Watches the rows of a generation: shows the first row and finds stop strings."""

    tokenizer: Tokenizer
    stop: tuple[str, ...]
    show: Callable[[str], None] | None  # called with each new piece of the first row
    shown: int = 0  # characters

    def watch(self, rows: list[np.ndarray]) -> list[bool]:
        """Whether each row has reached a stop string; for the argument of `decode`."""
        texts = [self.tokenizer.decode(row) for row in rows]
        ends = [self._end(text) for text in texts]
        self._say(texts[0][: self._settled(texts[0]) if ends[0] is None else ends[0]])
        return [end is not None for end in ends]

    def finish(self, number: int, row: Continuation) -> Generated:
        """The result of row `number`, cut before the first stop string."""
        tokens, scores = row
        text = self.tokenizer.decode(tokens)
        end = self._end(text)
        if end is not None:
            text = text[:end]

            def characters(count: int) -> int:
                return len(self.tokenizer.decode(tokens[:count]))

            counts = range(len(tokens) + 1)
            # The tokens that lie wholly before character `end`.
            tokens = tokens[: bisect_right(counts, end, key=characters) - 1]
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

    def _settled(self, text: str) -> int:
        """The number of characters that are final and not part of a stop string."""
        starts = (stop[:n] for stop in self.stop for n in range(1, len(stop)))
        partial = max((len(each) for each in starts if text.endswith(each)), default=0)
        whole = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        return min(len(text) - partial, whole)
