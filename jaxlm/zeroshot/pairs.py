"""Minimal pairs: does the model score the good sentence above the bad one?

    simple        log p(sentence)         The cats sleep.    The cats sleeps.
    one prefix    log p(word | prefix)    The cats → sleep   The cats → sleeps
    two prefixes  log p(word | prefix)    The cats → sleep   The cat → sleep

Chance is .5, and a tie counts one half.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    files_of,
    mean_of,
    records,
    two_texts,
    wrong,
)

if TYPE_CHECKING:
    from jaxlm.open import Model

NEEDS = ""
BLIMP = "Warstadt et al. 2020 (arXiv 1912.00582)"
VARIANTS = (
    Variant("simple", f"Σ log p of the sentence: {BLIMP}, section 4; the harness"),
    Variant("mean", "simple / tokens: MeanLP of Lau et al. 2020 (arXiv 2004.00881)"),
    Variant("pen", "simple / ((5 + tokens) / 6)^.8: PenLP of Lau et al. 2020"),
    Variant("one prefix", f"{BLIMP}, section 4"),
    Variant("two prefix", f"{BLIMP}, section 4"),
)
HUMAN = 0.886
MODELS = ("ngram", "lstm", "txl", "gpt2")  # of BLiMP's models_summary.jsonl
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


def read(paths: Sequence[str]) -> list[Pair]:
    """The pairs of files, or of the .jsonl of a directory."""
    if len(paths) == 2 and not any(".jsonl" in path for path in paths):
        return [Pair("pairs", "pairs", *each) for each in two_texts(paths)]
    found = []
    for path in files_of(paths, ".jsonl", "pairs"):
        for where, each in records(path, "pairs", "sentence_good", "sentence_bad"):
            name = str(each.get("UID", Path(path).name.partition(".")[0]))
            term = str(each.get("linguistics_term", each.get("phenomenon", name)))
            sentences = each["sentence_good"], each["sentence_bad"]
            found.append(Pair(name, term, *sentences, *_by_word(where, each)))
    if not found:
        raise UserError(f"{', '.join(paths)}: no pair: {wrong('pairs', '')}")
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


def run(
    model: "Model",
    items: Sequence[Pair],
    variants: Sequence[Variant],
    options: Options,
) -> Report:
    """Accuracy by paradigm, by phenomenon (a dot follows its name) and of all."""
    pairs = first(items, options.limit)
    n, how = len(pairs), {"method": options.method}
    sentences = [pair.good for pair in pairs] + [pair.bad for pair in pairs]
    found: Any = model.score(sentences, **how)
    total = np.array([each.total for each in found]).reshape(2, n)
    length = np.array([len(each.log_p) for each in found]).reshape(2, n)
    better = {
        "simple": _better(*total),
        "mean": _better(*(total / length)),
        "pen": _better(*(total / ((5 + length) / 6) ** 0.8)),
    }
    by_word = [i for i, pair in enumerate(pairs) if pair.kind]
    if by_word:
        words = [pairs[i].words[k] for k in (0, 1) for i in by_word]
        prompts = [pairs[i].prompts[k] for k in (0, 1) for i in by_word]
        scored: Any = model.score(words, prompts, **how)
        scores = [each.total for each in scored]
        for kind in _BY_WORD:
            better[kind.replace("_", " ")] = values = np.full(n, np.nan)
            mine = _better(*np.array(scores).reshape(2, -1))
            for i, value in zip(by_word, mine, strict=True):
                if pairs[i].kind == kind:
                    values[i] = value
    paradigm = np.array([pair.paradigm for pair in pairs])
    phenomenon = np.array([pair.phenomenon for pair in pairs])
    groups = {"all": np.ones(n, bool)}
    for term in dict.fromkeys(phenomenon):
        groups[f"{term}."] = phenomenon == term
        own = dict.fromkeys(paradigm[phenomenon == term])
        groups |= {name: paradigm == name for name in own}
    names = {variant.name for variant in variants}
    figures = [
        mean_of(variant, name, values[group & ~np.isnan(values)], chance=0.5)
        for name, group in groups.items()
        for variant, values in better.items()
        if variant in names and (group & ~np.isnan(values)).any()
    ]
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
    variances = [part.var(ddof=1) / len(part) for part in parts]
    weights = np.array([len(part) for part in parts]) / len(values)
    return figure._replace(error=float(np.sqrt((weights**2 * variances).sum())))


def _better(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    return (np.sign(np.round(good - bad, 5)) + 1) / 2


def first(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    """The first `limit` pairs of each paradigm; 0: all."""
    seen: dict[str, int] = {}
    kept = []
    for pair in pairs:
        seen[pair.paradigm] = seen.get(pair.paradigm, 0) + 1
        if not limit or seen[pair.paradigm] <= limit:
            kept.append(pair)
    return kept


def published(paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """Model → accuracy by paradigm, from the models_summary.jsonl of BLiMP's repository
    if it is beside the data."""
    inside = Path("raw_results/summary/models_summary.jsonl")
    for folder in (Path(paths[0]), *Path(paths[0]).parents[:2]):
        if (folder / inside).is_file():
            found: dict[str, dict[str, float]] = {}
            for _, each in records(str(folder / inside), "pairs", "UID"):
                for name in MODELS:
                    found.setdefault(name, {})[each["UID"]] = float(each[name])
            return found
    return {}
