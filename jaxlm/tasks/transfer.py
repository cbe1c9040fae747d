"""A task learnt in one language → its figures in others, without an example of them.

    find(["ud_pud/", "zh:DRCD_test.json"])    → language → file
    read(task, files)                         → rows, without labels
    transfer(runs, targets)                   → figures of each seed in each language

The checkpoint of each seed is the best on the dev file of the source language. Labels
of a file are read when all seeds have scored its rows (Keung et al. 2020, "Don't use
English dev", on how much such choices change). Beside each figure stand its distance to
the source language, the figure of random scores and of the commonest answer, and how
much of the language the vocabulary covers.
"""

import functools
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from etils import epath

from jaxlm.config import load_config
from jaxlm.config.task import Rules
from jaxlm.files import place
from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.tasks.data_files import DEV, resolved
from jaxlm.tasks.finetuned import Finetuned, best_figures
from jaxlm.tasks.task import File, Scores, Task, TaskRows
from jaxlm.text.find import labelled
from jaxlm.text.sources import COMPRESSED
from jaxlm.text.texts import primary
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.tokenizer import SPECIAL
from jaxlm.train.screen import shown
from jaxlm.train.workdir import provenance
from jaxlm.types import UserError, plural

_MAJORITY = "majority_accuracy"
_DRAWS = 5  # of random scores
Figures = dict[str, float]


class Target(NamedTuple):
    """A file in another language, read without labels."""

    language: str
    path: str
    rows: TaskRows
    examples: int
    unknown: float  # share of its words that the vocabulary lacks
    continued: float  # share of its tokens that go on a word

    @property
    def dev(self) -> bool:
        """Whether its name says that it is a dev file."""
        return bool(_words(Path(self.path)) & set(DEV))


@dataclass
class Result:
    """The figures in one language."""

    target: Target
    seeds: list[Figures] = field(default_factory=list)
    chance: Figures = field(default_factory=dict)
    unseen: Counter[str] = field(default_factory=Counter)  # labels not in training
    labels: int = 0


def find(specs: Sequence[str]) -> dict[str, str]:
    """Language → file, of files, directories and globs, each may be labelled, `fr:…`.

    A file's language is the code in its name (`xquad.de.json`, `test-de.tsv`) or in
    that of its directory (`de/test_2k.tsv`). Files of a directory that are named train,
    or that have no code, are left out.
    """
    found: dict[str, str] = {}
    for spec in specs:
        language, path = labelled(spec)
        files = _files(spec, path)
        for each in files:
            here = language or language_of(each)
            if not here and len(files) == 1:
                remedy = f"label it, as in fr:{each}"
                raise UserError(f"{each}: no language code in its name: {remedy}")
            if found.setdefault(here, each) != each and here:
                both = f"{found[here]} and {each} are both of the language {here}"
                raise UserError(f"{both}: name one file for each, or label them")
    found.pop("", None)
    if not found:
        raise UserError(f"no file of a language in {', '.join(specs)}")
    return found


def _files(spec: str, path: str) -> list[str]:
    here = place(path)
    if here.is_dir() and not (here / "seq.in").is_file():
        below = sorted([*here.glob("*"), *here.glob("*/*")])
        every = [each for each in below if each.is_file()]
        kept = (e for e in every if e.name[0] != "." and not _is_train(e))
        return [str(each) for each in kept if language_of(each)]
    if here.exists():
        return [path]
    parent, _, name = path.rpartition("/")
    globbed = sorted(place(parent or ".").glob(name)) if set("*?[") & set(name) else []
    if not globbed:
        raise UserError(f"--transfer {spec}: no file or directory {path}")
    return [str(each) for each in globbed]


def _words(path: Path | epath.Path) -> set[str]:
    stem = path.name
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    return set(stem.replace("-", ".").replace("_", ".").split("."))


def _is_train(path: Path | epath.Path) -> bool:
    return "train" in _words(path)


def language_of(path: str | os.PathLike) -> str:
    """The one code of a language in a file's name or its directory's; or ""."""
    for part in (Path(path), Path(path).parent):
        found = _words(part) & _codes()
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


@functools.cache
def _codes() -> set[str]:
    """ISO 639-1, as far as mBERT's Wikipedias have it."""
    return {code for code in load_config("mbert").text.languages if len(code) == 2}


def read(
    task: Task, files: Mapping[str, str], data: Mapping[str, Any] | None = None
) -> list[Target]:
    """The rows of each file, without labels.

    `data` is the run's provenance: its dev file is left out, its training file refused.
    """
    data, found = data or {}, []
    for language, path in files.items():
        if _same(path, data.get("data", "")):
            raise UserError(f"{path} is the training file: leave it out")
        if _same(path, data.get("dev", "")):
            continue
        examples = task.read(path, False)
        rows = task.encode(examples, False)
        texts = [text for each in examples for text in task.texts(each)]
        covered = coverage(task.tokenizer, texts)
        found.append(Target(language, path, rows, len(examples), *covered))
    if files and not found:
        raise UserError(
            f"--transfer has the dev file alone: {', '.join(files.values())}"
        )
    return found


def coverage(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[float, float]:
    """(share of words that are unknown, share of tokens that go on a word)."""
    ids, starts, *_ = tokenizer.encode_flat(texts)
    unknown = tokenizer.id(tokenizer.special_names.get(SPECIAL[1], ""))
    lacking = (ids >= tokenizer.vocab_size) | (
        ids == (-1 if unknown is None else unknown)
    )
    words, tokens = max(1, int(starts.sum())), max(1, len(ids))
    return int(lacking.sum()) / words, int((~starts).sum()) / tokens


@dataclass
class Transfer:
    """A task in all languages; `lines` for people, `content` for programs."""

    metric: str
    names: list[str]  # of the figures shown, the metric first
    seeds: list[str]  # the run of each
    source: str  # the language of training
    dev: str  # the file that chose the checkpoints
    dev_figures: list[Figures]
    results: list[Result]

    @property
    def base(self) -> list[Figures]:
        """What the gap is to: the test file of the source language, or the dev file."""
        mine = [r.seeds for r in self.results if r.target.language == self.source]
        return mine[0] if mine else self.dev_figures

    def gap(self, result: Result) -> float | None:
        """How far a language is from the source language, on average over seeds."""
        if not self.base or result.seeds is self.base:
            return None
        here, source = (_mean(each, self.metric) for each in (result.seeds, self.base))
        return here["mean"] - source["mean"]

    def content(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        languages = {
            each.target.language: {
                "file": each.target.path,
                "dev_file": each.target.dev,
                "examples": each.target.examples,
                "figures": {n: _mean(each.seeds, n) for n in self.names},
                "seeds": each.seeds,
                "gap": self.gap(each),
                "chance": each.chance,
                "unknown": each.target.unknown,
                "continued": each.target.continued,
                "labels_not_in_training": dict(each.unseen),
            }
            for each in self.results
        }
        source = {"language": self.source, "dev": self.dev, "seeds": self.dev_figures}
        found = {"metric": self.metric, "runs": self.seeds, "source": source}
        return {**found, "languages": languages}

    def lines(self) -> list[str]:
        """A table with a line for each language, and what a reader has to know."""
        some = next(iter(self.results)).seeds[0]
        majority = _MAJORITY in some and self.metric == "accuracy"
        names = [name.replace("_", " ") for name in self.names]
        head = ["", "examples", *names, "gap", "chance", *["majority"] * majority]
        rows = [[*head, "unknown", "continued"]]
        if self.dev_figures:
            cells = [_spread(self.dev_figures, name) for name in self.names]
            rows.append([f"{self.source} dev", "", *cells])
        for each in self.results:
            target, gap = each.target, self.gap(each)
            cells = [_spread(each.seeds, name) for name in self.names]
            cells += ["" if gap is None else shown(self.metric, gap)]
            cells += [shown(self.metric, each.chance[self.metric])]
            cells += [shown(_MAJORITY, each.seeds[0].get(_MAJORITY))] * majority
            cells += [f"{target.unknown:.1%}", f"{target.continued:.1%}"]
            mark = "*" if target.dev else ""
            rows.append([target.language + mark, f"{target.examples:,}", *cells])
        others = [e for e in self.results if e.target.language != self.source]
        if len(others) > 1:
            by_seed = zip(*(each.seeds for each in others), strict=True)
            means: list[Figures] = []
            for every in by_seed:
                shared = [n for n in self.names if all(n in each for each in every)]
                means.append({n: _mean(every, n)["mean"] for n in shared})
            cells = [_spread(means, name) for name in self.names]
            rows.append([f"mean of {len(others)} others", "", *cells])
        return [*_columns(rows), *self._notes()]

    def _notes(self) -> list[str]:
        count = plural(len(self.seeds), "seed")
        chosen = (
            f"on {self.dev}, which is {self.source}" if self.dev else "by the last step"
        )
        notes = [
            f"{count}: the checkpoint was chosen {chosen}; no example in another "
            "language was trained on, and labels were read after scoring"
        ]
        if any(each.target.dev for each in self.results):
            notes.append("* a dev file, as for data whose test labels are not public")
        for each in self.results:
            target = each.target
            if target.unknown > 0.5:
                share = f"{target.unknown:.0%} of its words are unknown"
                notes.append(f"{target.language}: {share}: its figures mean nothing")
            if each.unseen:
                first = ", ".join(f"{t} ({n})" for t, n in each.unseen.most_common(5))
                share = f"{each.unseen.total():,} of {each.labels:,} labels"
                what = f"{share} are not in the training file, and are errors: {first}"
                other = each.unseen.total() == each.labels
                what += ": is it a file of another task?" * other
                notes.append(f"{target.language}: {what}")
        return notes


def _mean(seeds: Sequence[Figures], name: str) -> dict[str, float]:
    values = [each[name] for each in seeds if name in each]
    if not values:
        return {}
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": spread}


def _spread(seeds: Sequence[Figures], name: str) -> str:
    found = _mean(seeds, name)
    if not found:
        return "–"
    sd = f" ± {shown(name, found['sd'])}" if len(seeds) > 1 else ""
    return shown(name, found["mean"]) + sd


def _columns(rows: list[list[str]]) -> list[str]:
    size = max(map(len, rows))
    rows = [[*row, *[""] * (size - len(row))] for row in rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        more = (f"{c:>{w}}" for c, w in zip(cells, wide[1:], strict=True))
        lines.append("  ".join([f"{first:<{wide[0]}}", *more]).rstrip())
    return lines


def transfer(
    runs: Sequence[Finetuned], targets: Sequence[Target], *, batch: int = 32
) -> Transfer:
    """The figures of all runs, which differ in their seeds, on all targets."""
    task = runs[0].task
    fields = task.config.task
    record = (provenance(runs[0].directory) or [{}])[-1]
    train, dev = record.get("data", ""), record.get("dev", "")
    found = [best_figures(run.directory) for run in runs]
    names = [fields.metric]
    if fields.kind == "spans":
        names += [n for n in ("f1", "exact", "mlqa_f1") if n != fields.metric]
    return Transfer(
        fields.metric,
        names,
        [str(run.directory) for run in runs],
        language_of(train) or "source",
        dev,
        [each[1] for each in found if each],
        [_evaluated(runs, target, batch) for target in targets],
    )


def _evaluated(runs: Sequence[Finetuned], target: Target, batch: int) -> Result:
    unlabelled = File((), target.rows)
    scores = [run.scores(unlabelled, batch=batch) for run in runs]
    task, out = runs[0].task, Result(target)
    examples = task.read(target.path, True)
    rows, out.unseen, out.labels = task.relabel(target.rows, examples)
    file = File(examples, rows)
    for run, each in zip(runs, scores, strict=True):
        out.seeds.append(_figures(run.task, file, each, target.language))
    draws = [task.figures(file, _random(scores[0], seed)) for seed in range(_DRAWS)]
    out.chance = {n: statistics.fmean(each[n] for each in draws) for n in draws[0]}
    return out


def _figures(task: Task, file: File, scores: Scores, language: str) -> Figures:
    """The task's figures; for answers, also by MLQA's rules for the language."""
    found, rules = task.figures(file, scores), f"mlqa_{primary(language)}"
    if task.config.task.kind == "spans" and rules in get_args(Rules):
        own = task.with_fields(rules=rules).figures(file, scores)
        found |= {"mlqa_exact": own["exact"], "mlqa_f1": own["f1"]}
    return found


def _random(scores: Scores, seed: int) -> Scores:
    draw = np.random.default_rng(seed)
    none = NEG_INF / 2  # an alternative that is none
    noise = ((each, draw.standard_normal(each.shape)) for each in scores)
    return [np.where(each > none, other, each) for each, other in noise]


def _same(path: str, other: str) -> bool:
    return bool(other) and resolved(path) == other
