"""Fragments → the bounded, seeded sample of text that a vocabulary is learnt from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from jaxlm.text.blocks import Recipe, hashed, split_of
from jaxlm.text.documents import Fragment


def not_held_out(fragments: Iterable[Fragment], recipe: Recipe) -> Iterator[Fragment]:
    """The fragments of documents that are trained on."""
    inside = True
    for fragment in fragments:
        if fragment.starts:
            inside = split_of(fragment.data, recipe) == 0
        if inside:
            yield fragment


def sample(fragments: Iterable[Fragment], recipe: Recipe, limit: int) -> list[Fragment]:
    """Fragments of at most `limit` bytes in all, of documents that are not held out.

    Every fragment has a hash of the seed, its content and its place in its source;
    those with the smallest hashes are kept, and given in the order of the hashes, so
    that the first of them are a sample too. Of a small corpus everything is kept.
    """
    kept: list[tuple[float, int, Fragment]] = []  # a heap: the largest hash first
    size = 0
    for number, fragment in enumerate(not_held_out(fragments, recipe)):
        name = f"sample/{fragment.offset}"
        heapq.heappush(
            kept, (-hashed(fragment.data, recipe.seed, name), number, fragment)
        )
        size += len(fragment.data)
        while size > limit:
            size -= len(heapq.heappop(kept)[2].data)
    return [fragment for _, _, fragment in sorted(kept, reverse=True)]
