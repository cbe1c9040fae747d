"""Fragments → the bounded, seeded sample of text that a vocabulary is learnt from.

Each of several languages has its share of the sample, and its texts are repeated so
that they count by `smoothed`: w times on average, w ∝ p_i / (bytes of the language in
the sample); the i-th text ⌊(i + 1) w⌋ - ⌊i w⌋ times. So any learner sees the counts
that were asked for, exact to one text.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.text.documents import Fragment
from jaxlm.text.languages import smoothed
from jaxlm.text.recipe import Recipe
from jaxlm.text.sources import Source
from jaxlm.text.texts import texts_of
from jaxlm.text.units import hashed, split_of


class Sample(NamedTuple):
    """The fragments that were kept, in the order of their hashes."""

    fragments: list[Fragment]
    read: Counter[str]  # bytes of each language that they were chosen from


def not_held_out(fragments: Iterable[Fragment], recipe: Recipe) -> Iterator[Fragment]:
    """The fragments of documents that are trained on."""
    inside = True
    for fragment in fragments:
        if fragment.starts:
            inside = split_of(fragment.data, recipe) == 0
        if inside:
            yield fragment


def limits(sources: Sequence[Source], recipe: Recipe, most: int) -> dict[str, float]:
    """Bytes of each language in a sample of `most` bytes, by the sizes of its files."""
    sizes = dict.fromkeys(recipe.languages, 0)
    for source in sources:
        sizes[source.language] += source.size
    shares = smoothed(np.array(list(sizes.values())), recipe.smoothing)
    return dict(zip(sizes, (most * shares).tolist(), strict=True))


def sample(
    fragments: Iterable[Fragment], recipe: Recipe, limits: Mapping[str, float]
) -> Sample:
    """A sample of the documents that are not held out; of a small corpus, all of them.

    Each fragment has a hash of the seed, its content and its place in its source. Those
    with the smallest hashes are kept, in the order of the hashes, so that any first
    part of them is a sample too.

    Args:
        limits: most bytes of each language; one fragment of each is kept at least.
    """
    # A heap a language, the largest hash first.
    kept: dict[str, list[tuple[float, int, Fragment]]] = {each: [] for each in limits}
    size: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for number, fragment in enumerate(not_held_out(fragments, recipe)):
        language, heap = fragment.language, kept[fragment.language]
        place = hashed(fragment.data, recipe.seed, f"sample/{fragment.offset}")
        heapq.heappush(heap, (-place, number, fragment))
        read[language] += len(fragment.data)
        size[language] += len(fragment.data)
        while size[language] > limits[language] and len(heap) > 1:
            size[language] -= len(heapq.heappop(heap)[2].data)
    every = sorted((each for heap in kept.values() for each in heap), reverse=True)
    return Sample([fragment for _, _, fragment in every], read)


def weighted_texts(found: Sample, recipe: Recipe) -> Iterator[str]:
    """The texts of a sample, each as often as smoothing asks for in its language."""
    weights = _weights(found, recipe.smoothing)
    done: Counter[str] = Counter()  # texts of each language
    for fragment in found.fragments:
        language = fragment.language
        for text in texts_of(fragment, recipe).texts:
            before = done[language] * weights[language]
            done[language] += 1
            times = int(done[language] * weights[language]) - int(before)
            yield from itertools.repeat(text, times)


def _weights(found: Sample, exponent: float) -> dict[str, float]:
    """How often a text of each language is read; at least once."""
    kept: Counter[str] = Counter()
    for fragment in found.fragments:
        kept[fragment.language] += len(fragment.data)
    names = sorted(kept)
    if len(names) < 2:
        return dict.fromkeys(names, 1.0)
    shares = smoothed(np.array([found.read[name] for name in names]), exponent)
    each = shares / np.array([kept[name] for name in names])
    return dict(zip(names, (each / each.min()).tolist(), strict=True))
