"""BERT's published row builder in plain Python, with lists and `random.Random`.

The algorithm of google-research/bert's create_pretraining_data.py (Devlin et al. 2018,
appendix A.2), written from its description, so that it is independent of the code and
of jaxlm. Each rule is one method; a test overrides it to see that a wrong rule fails.

A token is any value; documents are lists of sentences, sentences lists of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """One row before masking."""

    a: list
    b: list
    is_random: bool
    document: int
    target: int  # tokens that A and B aimed at
    wanted: tuple[int, int]  # tokens of A and B before truncation


class Hidden(NamedTuple):
    """One row after masking, with its predictions by ascending position."""

    tokens: list
    positions: list[int]
    targets: list


@dataclass(frozen=True)
class Reference:
    """The rules with their published defaults, one a method."""

    length: int = 128
    predictions: int = 20
    mask_rate: float = 0.15
    short_rate: float = 0.1

    # Rows of sentence pairs.

    def document_target(self, rng: random.Random) -> int:
        """The target length in tokens, drawn once a pass over a document."""
        most = self.length - 3
        return rng.randint(2, most) if rng.random() < self.short_rate else most

    def pairs(self, documents: list, number: int, rng: random.Random) -> Iterator[Pair]:
        """One pass over one document."""
        document = documents[number]
        target = self.document_target(rng)
        chunk: list = []
        at = 0
        while at < len(document):
            chunk.append(document[at])
            last = at == len(document) - 1
            if last or sum(map(len, chunk)) >= target:
                a_end = self.split(chunk, rng)
                a = [token for sentence in chunk[:a_end] for token in sentence]
                is_random = self.coin(chunk, rng)
                if is_random:
                    b = self.random_second(documents, number, target - len(a), rng)
                    at -= self.unused(chunk, a_end)
                else:
                    b = [token for sentence in chunk[a_end:] for token in sentence]
                wanted = (len(a), len(b))
                self.truncate(a, b, rng)
                yield Pair(a, b, is_random, number, target, wanted)
                chunk = []
            at += 1

    def split(self, chunk: list, rng: random.Random) -> int:
        """How many sentences of the chunk make A."""
        return rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1

    def coin(self, chunk: list, rng: random.Random) -> bool:
        """Whether B is random; it must be if no sentence is left for it."""
        return len(chunk) == 1 or rng.random() < 0.5

    def unused(self, chunk: list, a_end: int) -> int:
        """How many sentences go back to the next chunk after a random B."""
        return len(chunk) - a_end

    def random_second(
        self, documents: list, number: int, wanted: int, rng: random.Random
    ) -> list:
        """Whole sentences of another document, at least one, until `wanted` tokens."""
        for _ in range(10):
            other = rng.randint(0, len(documents) - 1)
            if other != number:
                break
        start = rng.randint(0, len(documents[other]) - 1)
        b: list = []
        for sentence in documents[other][start:]:
            b.extend(sentence)
            if len(b) >= wanted:
                break
        return b

    def truncate(self, a: list, b: list, rng: random.Random) -> None:
        """Drop tokens of the longer segment, at either end, until both fit."""
        while len(a) + len(b) > self.length - 3:
            longer = a if len(a) > len(b) else b
            del longer[0 if self.at_front(rng) else -1]

    def at_front(self, rng: random.Random) -> bool:
        """Whether a segment loses its first token, not its last."""
        return rng.random() < 0.5

    # Masked tokens.

    def budget(self, length: int) -> int:
        """Tokens to predict in a row of `length`, [CLS] and [SEP] counted."""
        return min(self.predictions, max(1, round(length * self.mask_rate)))

    def choose(self, order: list[list[int]], budget: int) -> list[int]:
        """Take units in this order, skipping those that exceed the budget."""
        chosen: list[int] = []
        for unit in order:
            if len(chosen) >= budget:
                break
            if len(chosen) + len(unit) > budget:
                continue
            chosen.extend(unit)
        return sorted(chosen)

    def replace(self, token, mask, vocabulary: Callable[[], object], rng):
        """The token that replaces `token`: 80% mask, 10% random, 10% itself."""
        if rng.random() < 0.8:
            return mask
        return token if rng.random() < 0.5 else vocabulary()

    def hide(
        self,
        tokens: list,
        units: list[list[int]],
        mask,
        vocabulary: Callable[[], object],
        rng: random.Random,
    ) -> Hidden:
        """Mask a row.

        Args:
            tokens: [CLS] A [SEP] B [SEP].
            units: positions that are masked together, [CLS] and [SEP] left out.
            mask: the [MASK] token.
            vocabulary: draws any token.
            rng: chance.
        """
        order = list(units)
        rng.shuffle(order)
        positions = self.choose(order, self.budget(len(tokens)))
        out = list(tokens)
        for position in positions:
            out[position] = self.replace(tokens[position], mask, vocabulary, rng)
        return Hidden(out, positions, [tokens[position] for position in positions])
