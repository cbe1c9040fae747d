"""Texts of several languages: their labels, and how much of each is taken.

    --text en:'en/*.txt' zh:gs://bucket/zh.txt zh:tfds:wiki40b/zh-cn

A language with n_i of all n tokens is sampled with p_i ∝ (n_i / n)^S: at S = 1 in
proportion to its text, at S near 0 as often as any other. BERT's multilingual models
had S = 0.7, both for the rows and for the word counts behind the vocabulary
(google-research/bert, multilingual.md). Next: `sample.py` for the words,
`data/rows.py` for the rows.
"""

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from jaxlm.config import TextConfig
from jaxlm.text.documents import read_fragments
from jaxlm.text.sources import Source
from jaxlm.types import UserError

Chinese = Literal["as_is", "simplified", "traditional"]


def primary(language: str) -> str:
    """The language itself, without script or region: zh of zh-Hant."""
    return language.split("-")[0]


def with_languages(
    sources: Sequence[Source], text: TextConfig
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sources, each with its language, and the languages in their order.

    Raises:
        UserError: a language that the config does not know or cannot mix, that has no
            text, or whose characters could not be converted.
    """
    languages = tuple(dict.fromkeys(source.language for source in sources))
    if languages == ("",):
        languages = (text.language,)
    elif text.languages:
        _check_known(languages, text.languages)
    if text.chinese != "as_is":
        if "zh" not in map(primary, languages):
            raise UserError(
                f"text.chinese = {text.chinese}, but the text is in "
                f"{', '.join(languages)}: label the Chinese, --text zh:PATH"
            )
        converter(text.chinese)  # a missing library is told at once
    if len(languages) == 1:
        sources = [replace(source, language=languages[0]) for source in sources]
        return tuple(sources), languages
    if text.tokenizer == "words":
        raise UserError(
            f"the text is in {', '.join(languages)}, and an ELMo's words are counted "
            "in one language: prepare a corpus of each"
        )
    for language in languages:
        of_it = [source for source in sources if source.language == language]
        if not any(any(read_fragments(each, lines=True)) for each in of_it):
            names = ", ".join(source.name for source in of_it[:3])
            raise UserError(f"the language {language} has no text: {names}")
    return tuple(sources), languages


def _check_known(languages: Iterable[str], known: Sequence[str]) -> None:
    """Subtags are free: where zh is known, so is zh-Hant."""
    for language in languages:
        if language in known or primary(language) in known:
            continue
        near = difflib.get_close_matches(language, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"the config does not know the language {language!r}: {hint}"
            f"--text.languages has {len(known)}; name those of your text there"
        )


def smoothed(sizes: np.ndarray, exponent: float) -> np.ndarray:
    """p_i ∝ (n_i / n)^S, float64 [languages], for sizes n_i and exponent S.

    A language without text has no share, whatever the exponent.
    """
    part = sizes / max(np.sum(sizes), 1)
    raised = np.where(part > 0, part**exponent, 0.0)
    return raised / max(np.sum(raised), np.finfo(float).tiny)


@functools.cache
def converter(chinese: Chinese) -> Callable[[str], str]:
    """Any Chinese → simplified or traditional characters, word by word.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from opencc import OpenCC  # pyrefly: ignore
    except ImportError:
        raise UserError(
            f"text.chinese = {chinese} needs a library: pip install 'jaxlm[zh]' "
            "(or opencc)"
        ) from None
    return OpenCC({"simplified": "t2s", "traditional": "s2t"}[chinese]).convert
