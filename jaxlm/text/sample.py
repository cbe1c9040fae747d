"""Fragments → the bounded, seeded sample of text that a vocabulary is learnt from.

Of several languages each has its part of the sample, and its words count by `smoothed`:
they are read w times, w ∝ p_i / (bytes of the language in the sample), the i-th text
⌊(i + 1) w⌋ - ⌊i w⌋ times. So every learner sees the counts that were asked for, exact
to one text, whatever it counts.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.text.blocks import Recipe, hashed, split_of, texts_of
from jaxlm.text.documents import Fragment
from jaxlm.text.languages import smoothed
from jaxlm.text.sources import Source


class Sample(NamedTuple):
    """What was kept of a text, in the order of the hashes."""

    fragments: list[Fragment]
    read: Counter[str]  # bytes of each language that it was taken from


def not_held_out(fragments: Iterable[Fragment], recipe: Recipe) -> Iterator[Fragment]:
    """The fragments of documents that are trained on."""
    inside = True
    for fragment in fragments:
        if fragment.starts:
            inside = split_of(fragment.data, recipe) == 0
        if inside:
            yield fragment


def limits(
    sources: Sequence[Source], recipe: Recipe, exponent: float, most: int
) -> dict[str, float]:
    """Bytes of each language in a sample of `most`, by the sizes of its files."""
    sizes = dict.fromkeys(recipe.languages or ("",), 0)
    for source in sources:
        sizes[source.language] += source.size
    shares = smoothed(np.array(list(sizes.values())), exponent)
    return dict(zip(sizes, (most * shares).tolist(), strict=True))


def sample(
    fragments: Iterable[Fragment], recipe: Recipe, limits: Mapping[str, float]
) -> Sample:
    """Fragments of at most so many bytes a language, or one, of documents not held out.

    Every fragment has a hash of the seed, its content and its place in its source;
    those with the smallest hashes are kept, and given in the order of the hashes, so
    that the first of them are a sample too. Of a small corpus everything is kept.

    Args:
        fragments: all of the text.
        recipe: of the corpus.
        limits: by language; that of text without a label is "".
    """
    # A heap a language, the largest hash first.
    kept: dict[str, list[tuple[float, int, Fragment]]] = {each: [] for each in limits}
    size: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for number, fragment in enumerate(not_held_out(fragments, recipe)):
        name, language = f"sample/{fragment.offset}", fragment.language
        heap = kept[language]
        heapq.heappush(
            heap, (-hashed(fragment.data, recipe.seed, name), number, fragment)
        )
        read[language] += len(fragment.data)
        size[language] += len(fragment.data)
        while size[language] > limits[language] and len(heap) > 1:
            size[language] -= len(heapq.heappop(heap)[2].data)
    every = sorted((each for heap in kept.values() for each in heap), reverse=True)
    return Sample([fragment for _, _, fragment in every], read)


def weighted_texts(found: Sample, recipe: Recipe, exponent: float) -> Iterator[str]:
    """The texts of a sample, those of each language as often as smoothing asks for.

    Args:
        found: of the text.
        recipe: of the corpus.
        exponent: S, see `smoothed`.
    """
    weights = _weights(found, exponent)
    done: Counter[str] = Counter()  # texts of each language
    for fragment in found.fragments:
        language = fragment.language
        for text in texts_of(fragment, recipe)[0]:
            before = done[language] * weights[language]
            done[language] += 1
            times = int(done[language] * weights[language]) - int(before)
            for _ in range(times):
                yield text


def _weights(found: Sample, exponent: float) -> dict[str, float]:
    """How often a text of each language is read, at least once."""
    kept: Counter[str] = Counter()
    for fragment in found.fragments:
        kept[fragment.language] += len(fragment.data)
    names = sorted(kept)
    if len(names) < 2:
        return dict.fromkeys(names, 1.0)
    shares = smoothed(np.array([found.read[name] for name in names]), exponent)
    each = shares / np.array([kept[name] for name in names])
    return dict(zip(names, (each / each.min()).tolist(), strict=True))
