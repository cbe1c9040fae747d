"""Minimal pairs: does the model score the good sentence above the bad one?

    simple        log p(sentence)         The cats sleep.    The cats sleeps.
    one prefix    log p(word | prefix)    The cats → sleep   The cats → sleeps
    two prefixes  log p(word | prefix)    The cats → sleep   The cat → sleep

Chance is .5, and a tie counts one half.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxlm.open import Model
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    Variants,
    files_of,
    mean_of,
    records,
    two_texts,
)

BLIMP = "Warstadt et al. 2020 (arXiv 1912.00582)"
VARIANTS = (
    Variant("simple", f"Σ log p of the sentence: {BLIMP}, section 4; the harness"),
    Variant("mean", "simple / tokens: MeanLP of Lau et al. 2020 (arXiv 2004.00881)"),
    Variant("pen", "simple / ((5 + tokens) / 6)^.8: PenLP of Lau et al. 2020"),
    Variant("one prefix", f"{BLIMP}, section 4"),
    Variant("two prefix", f"{BLIMP}, section 4"),
)
MODELS = ("ngram", "lstm", "txl", "gpt2")  # of `_SUMMARY`
_SUMMARY = "raw_results/summary/models_summary.jsonl"  # of BLiMP's repository
_BY_WORD = {  # kind → the fields of two prompts and two words
    "one_prefix": "prefix prefix word_good word_bad",
    "two_prefix": "prefix_good prefix_bad word word",
}


class Pair(NamedTuple):
    """One pair, and where it may be scored by a word alone, that word twice."""

    paradigm: str
    phenomenon: str
    good: str
    bad: str
    kind: str = ""  # of `_BY_WORD`
    prompts: tuple[str, str] = ("", "")
    words: tuple[str, str] = ("", "")
    published: Mapping[str, float] = MappingProxyType({})  # model → of the paradigm


Pairs = Sequence[Pair]


def read(paths: Sequence[str]) -> list[Pair]:
    """The pairs of .jsonl files, all below a directory, or of two files of text."""
    if len(paths) == 2 and not any(".jsonl" in path for path in paths):
        return [Pair("pairs", "pairs", *each) for each in two_texts(paths)]
    found, known = [], published(paths)
    for path in files_of(paths, ".jsonl", "pairs"):
        if path.endswith(_SUMMARY):
            continue
        for where, each in records(path, "pairs", "sentence_good", "sentence_bad"):
            name = str(each.get("UID", Path(path).name.partition(".")[0]))
            term = str(each.get("linguistics_term", each.get("phenomenon", name)))
            sentences = each["sentence_good"], each["sentence_bad"]
            pair = Pair(name, term, *sentences, *_by_word(where, each))
            found.append(pair._replace(published=known.get(name, {})))
    return found


def _by_word(where: str, record: dict) -> tuple:
    """The kind, prompts and words of a pair; () if it has none."""
    for kind, names in _BY_WORD.items():
        fields = [f"{kind}_{name}" for name in names.split()]
        if not {*fields} & record.keys():
            continue
        values = [record.get(name) for name in fields]
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise UserError(f"{where}: {', '.join(fields)} are not all there")
        return kind, tuple(values[:2]), tuple(f" {word}" for word in values[2:])
    return ()


def run(model: Model, items: Pairs, variants: Variants, options: Options) -> Report:
    """Accuracy of all, by phenomenon (a dot follows its name) and by paradigm."""
    pairs = first(items, options.limit)
    n, how = len(pairs), {"method": options.method}
    sentences = [pair.good for pair in pairs] + [pair.bad for pair in pairs]
    found: Any = model.score(sentences, **how)
    total = np.array([each.total for each in found]).reshape(2, n)
    length = np.array([len(each.log_p) for each in found]).reshape(2, n)
    better = {  # nan where a pair has no such words
        "simple": _better(*total),
        "mean": _better(*(total / length)),
        "pen": _better(*(total / ((5 + length) / 6) ** 0.8)),
    }
    kinds = np.array([pair.kind for pair in pairs])
    if (by_word := np.flatnonzero(kinds)).size:
        words = [pairs[i].words[k] for k in (0, 1) for i in by_word]
        prompts = [pairs[i].prompts[k] for k in (0, 1) for i in by_word]
        scored: Any = model.score(words, prompts, **how)
        values = np.full(n, np.nan)
        values[by_word] = _better(*np.reshape([e.total for e in scored], (2, -1)))
        for kind in _BY_WORD:
            own = np.where(kinds == kind, values, np.nan)
            better[kind.replace("_", " ")] = own
    paradigm = np.array([pair.paradigm for pair in pairs])
    phenomenon = np.array([pair.phenomenon for pair in pairs])
    groups = {"all": np.ones(n, bool)}
    for term in dict.fromkeys(phenomenon):
        groups[f"{term}."] = phenomenon == term
        own = dict.fromkeys(paradigm[phenomenon == term])
        groups |= {name: paradigm == name for name in own}
    known = {pair.paradigm: pair.published for pair in pairs}
    figures = []
    for name, group in groups.items():
        inside = [known[each] for each in dict.fromkeys(paradigm[group])]
        inside = [each for each in inside if each]
        models = MODELS if inside else ()
        beside = {m: float(np.mean([each[m] for each in inside])) for m in models}
        for variant in (each for each in variants if each.name in better):
            values = better[variant.name][group]
            if len(values := values[~np.isnan(values)]):
                figures.append(mean_of(variant, name, values, chance=0.5, **beside))
    figures[0] = _pooled(figures[0], better["simple"], paradigm)
    answers = [
        {"paradigm": p.paradigm, "good": p.good, "bad": p.bad}
        | {"log_p": total[:, i].round(4).tolist(), "tokens": length[:, i].tolist()}
        for i, p in enumerate(pairs)
    ]
    other = int((length[0] != length[1]).sum())
    note = f"{other:,} of {n:,} pairs differ in their number of tokens"
    return Report(figures, answers, [note])


def _pooled(figure: Figure, values: np.ndarray, paradigm: np.ndarray) -> Figure:
    """The figure of all with the standard error of a mean over paradigms."""
    parts = [values[paradigm == name] for name in dict.fromkeys(paradigm)]
    if min(map(len, parts)) < 2:
        return figure
    variance = sum(len(part) * part.var(ddof=1) for part in parts) / len(values) ** 2
    return figure._replace(error=float(np.sqrt(variance)))


def _better(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    return (np.sign(np.round(good - bad, 5)) + 1) / 2


def first(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    """The first `limit` pairs of each paradigm; 0: all."""
    own: dict[str, list[Pair]] = {}
    for pair in pairs:
        own.setdefault(pair.paradigm, []).append(pair)
    return [pair for every in own.values() for pair in every[: limit or None]]


def published(paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Paradigm → model → accuracy, from the models_summary.jsonl of BLiMP's repository
    if it is beside the data."""
    for folder in (Path(paths[0]), *Path(paths[0]).parents[:2]):
        if (folder / _SUMMARY).is_file():
            rows = records(str(folder / _SUMMARY), "pairs", "UID")
            return {e["UID"]: {m: float(e[m]) for m in MODELS} for _, e in rows}
    return {}
