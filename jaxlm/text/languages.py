"""Texts of several languages: their labels, and how much of each is taken.

    --text en:'en/*.txt' zh:gs://bucket/zh.txt zh:tfds:wiki40b/zh-cn

A language of n_i of all n tokens is sampled with p_i ∝ (n_i / n)^S: at S = 1 as the
text comes, towards 0 all alike. BERT's multilingual models had S = 0.7, for the rows as
for the counts of words that the vocabulary is learnt from (google-research/bert,
multilingual.md). Next: `sample.py` for the words, `data/mixing.py` for the rows.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from jaxlm.types import UserError

Chinese = Literal["as_is", "simplified", "traditional"]

# ISO 639 with subtags of BCP 47: longer than the letter of a drive, shorter than "tfds"
# and with no "//" behind, as in "gs://".
_LABELLED = re.compile(r"([a-z]{2,3}(?:-[A-Za-z0-9]{1,8})*):(?!//)(.+)", re.DOTALL)


def labelled(spec: str) -> tuple[str, str]:
    """(language, the rest) of what a user names as text; ("", spec) without a label.

    A file whose own name looks like that is named by a path: `./en:notes.txt`.
    """
    found = _LABELLED.fullmatch(spec)
    return (found[1], found[2]) if found else ("", spec)


def primary(language: str) -> str:
    """The language itself, without script or region: zh of zh-Hant."""
    return language.split("-")[0]


def check_known(languages: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError for a language that is not `known`, with the nearest that is.

    Subtags are free: where zh is known, so is zh-Hant.
    """
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

    What has no size has no share, at any exponent.
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
