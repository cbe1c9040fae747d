"""Texts in several languages: their labels, and how often each language is sampled.

    --text en:'en/*.txt' zh:gs://bucket/zh.txt zh:tfds:wiki40b/zh-cn

A language with n_i of all n tokens is sampled with p_i ∝ (n_i / n)^S: in proportion to
its text if S = 1, and almost equally often if S is near 0. Multilingual BERT had S =
0.7, both for the rows (`data/rows.py`) and for the word counts of the vocabulary
(google-research/bert, multilingual.md).

A vocabulary is learnt from a bounded, seeded sample in which each language has its
share. Texts are repeated so that languages have the shares of `smoothed`: a text is
read w times on average, w ∝ p_i / (bytes of the language in the sample), and the i-th
text ⌊(i + 1) w⌋ - ⌊i w⌋ times. So the counts are exact to one text, in any learner.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxlm.config import TextConfig
from jaxlm.config.checks import meant
from jaxlm.text.documents import Fragment, read_fragments
from jaxlm.text.recipe import Recipe
from jaxlm.text.sources import Source
from jaxlm.text.texts import converter, primary, texts_of
from jaxlm.text.units import hashed, split_of
from jaxlm.types import UserError

SAMPLE = 64 << 20  # bytes of text that a vocabulary is learnt from, at most


def with_languages(sources: Sequence[Source], text: TextConfig) -> Sequence[Source]:
    """The sources, each with its language.

    UserError if the config does not know a language or cannot mix languages, if a
    language has no text, or if Chinese is to be converted but there is none.
    """
    languages = tuple(dict.fromkeys(source.language for source in sources))
    known = text.languages or languages
    for language in languages:
        # Subtags are free: where zh is known, so is zh-Hant.
        if language and not {language, primary(language)} & set(known):
            raise UserError(
                f"the config does not know the language {language!r}: "
                f"{meant(language, known)} --text.languages has {len(known)}; name "
                "those of your text there"
            )
    if languages == ("",):
        languages = (text.language,)
    if text.chinese != "as_is":
        if "zh" not in map(primary, languages):
            this = f"text.chinese = {text.chinese}, the text is {', '.join(languages)}"
            raise UserError(f"{this}: label the Chinese, --text zh:PATH")
        converter(text.chinese)  # a missing library is told at once
    if len(languages) == 1:
        return [replace(each, language=languages[0]) for each in sources]
    if text.tokenizer == "words":
        every = ", ".join(languages)
        raise UserError(f"an ELMo has one language: prepare a corpus each of {every}")
    for language in languages:
        of_it = [source for source in sources if source.language == language]
        if not any(any(read_fragments(each)) for each in of_it):
            names = ", ".join(source.name for source in of_it[:3])
            raise UserError(f"the language {language} has no text: {names}")
    return sources


def smoothed(sizes: np.ndarray, exponent: float) -> np.ndarray:
    """p_i ∝ (n_i / n)^S, float64 [languages], for sizes n_i and exponent S.

    A language without text has share 0 for any exponent.
    """
    part = sizes / max(np.sum(sizes), 1)
    raised = np.where(part > 0, part**exponent, 0.0)
    return raised / max(np.sum(raised), np.finfo(float).tiny)


def texts_to_learn(
    fragments: Iterable[Fragment], sources: Sequence[Source], recipe: Recipe
) -> Iterator[str]:
    """The training texts for a vocabulary: a sample of all `fragments`.

    ELMo's words are counted in all of the text.
    """
    if recipe.tokenizer == "words":
        weights = dict.fromkeys(recipe.languages, 1.0)
        return weighted_texts(not_held_out(fragments, recipe), weights, recipe)
    kept, weights = sample(fragments, recipe, limits(sources, recipe, SAMPLE))
    return weighted_texts(kept, weights, recipe)


def not_held_out(fragments: Iterable[Fragment], recipe: Recipe) -> Iterator[Fragment]:
    """The fragments of training documents, without those held out."""
    inside = True
    for fragment in fragments:
        if fragment.starts:
            inside = split_of(fragment.data, recipe) == 0
        if inside:
            yield fragment


def limits(sources: Sequence[Source], recipe: Recipe, most: int) -> dict[str, float]:
    """Language → its bytes in a sample of `most` bytes, from the sizes of its files."""
    sizes = dict.fromkeys(recipe.languages, 0)
    for source in sources:
        sizes[source.language] += source.size
    shares = smoothed(np.array(list(sizes.values())), recipe.smoothing)
    return dict(zip(sizes, (most * shares).tolist(), strict=True))


def sample(
    fragments: Iterable[Fragment], recipe: Recipe, limits: Mapping[str, float]
) -> tuple[list[Fragment], dict[str, float]]:
    """(a sample of training fragments, language → how often to read each text).

    Each fragment gets a hash of the seed, its content and its offset. The fragments
    with the smallest hashes are kept, sorted by hash, so that each prefix of the sample
    is a sample too. For each language, at most `limits` bytes and at least one fragment
    are kept. A small corpus is kept whole.
    """
    # A heap a language, the largest hash first.
    heaps: dict[str, list[tuple[float, int, Fragment]]] = {each: [] for each in limits}
    kept: Counter[str] = Counter()  # bytes
    read: Counter[str] = Counter()
    for number, fragment in enumerate(not_held_out(fragments, recipe)):
        language, size = fragment.source.language, len(fragment.data)
        heap = heaps[language]
        place = hashed(fragment.data, recipe.seed, f"sample/{fragment.offset}")
        heapq.heappush(heap, (-place, number, fragment))
        read[language] += size
        kept[language] += size
        while kept[language] > limits[language] and len(heap) > 1:
            kept[language] -= len(heapq.heappop(heap)[2].data)
    every = sorted((each for heap in heaps.values() for each in heap), reverse=True)
    names = sorted(kept)
    shares = smoothed(np.array([read[name] for name in names]), recipe.smoothing)
    weights = shares / np.array([kept[name] for name in names])
    weights = dict(zip(names, weights / weights.min(initial=np.inf), strict=True))
    return [fragment for _, _, fragment in every], weights


def weighted_texts(
    fragments: Iterable[Fragment], weights: Mapping[str, float], recipe: Recipe
) -> Iterator[str]:
    """The texts of a sample, repeated by the weight of their language."""
    done: Counter[str] = Counter()  # texts of each language
    for fragment in fragments:
        language = fragment.source.language
        for text in texts_of(fragment, recipe).texts:
            before = done[language] * weights[language]
            done[language] += 1
            times = int(done[language] * weights[language]) - int(before)
            yield from itertools.repeat(text, times)
