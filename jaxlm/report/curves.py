"""Metrics of runs → pictures: each figure over steps, beside its baseline."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.page import COLOURS, picture
from jaxlm.report.runs import RunRecord
from jaxlm.train.times import PARTS

_POINTS = 400  # bins of a curve; each shows its smallest and its largest value
_SETTINGS = {
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradient",
    "tokens_per_second": "tokens per second",
    "goodput": "goodput: share of the time in steps",
}
_OTHER = {
    "step",
    "tokens",
    "seconds",
    "skipped",
    "skipped_in_row",
    "mfu",
    "padding",
    "batch_sha256",
}
_OTHER |= {f"time_{part}" for part in PARTS}

Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def thinned(steps: np.ndarray, values: np.ndarray, bins: int = _POINTS) -> Curve:
    """The points of a curve that can be seen: in each of so many equal parts of the
    steps, the smallest and the largest value, and the two ends."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(steps) <= 2 * bins:
        return steps, values
    part = np.minimum((steps - steps[0]) * bins // (steps[-1] - steps[0]), bins - 1)
    order = np.lexsort((values, part))  # by part, then by value
    first = np.flatnonzero(np.diff(part[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    ends = [0, len(steps) - 1]
    kept = np.unique(np.concatenate([order[first], order[last], ends]))
    return steps[kept], values[kept]


def figure_names(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Figure of quality → its baseline or "", in the order of the report."""
    baselines: dict[str, str] = {}
    hidden = {"targets"}
    for figure in (each for run in runs for each in run.figures):
        baselines |= figure.baselines
        hidden |= {*figure.baselines.values(), *figure.details}
    names: dict[str, str] = {}
    for record in (each for run in runs for each in _telling(run)):
        for name in record:
            base = name.removeprefix("eval_")
            if base in hidden | _OTHER | _SETTINGS.keys():
                continue
            if not base.endswith("perplexity"):  # the loss shows it
                names[base] = baselines.get(base, "")
    losses = [name for name in names if name.endswith("_loss")]
    if len(losses) == 1:
        names.pop("loss", None)
    return dict(sorted(names.items(), key=lambda each: "loss" not in each[0]))


def _telling(run: RunRecord) -> Iterable[Any]:
    """Records that together have all fields: the ends, and an evaluation."""
    evaluated = (r for r in run.records if any(n.startswith("eval_") for n in r))
    return [run.records[0], run.records[-1], *[each for each in [*evaluated][:1]]]


@functools.cache
def curve(run: RunRecord, name: str) -> Curve:
    """A figure of a run over steps, thinned."""
    values = np.array([record.get(name) for record in run.records], np.float64)
    return thinned(run.steps, values)


def panels(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The curves as parts of a page: quality, then how training went."""
    quality = [
        _panel(runs, name, baseline, name.replace("_", " "))
        for name, baseline in figure_names(runs).items()
    ]
    course = [_panel(runs, name, "", title) for name, title in _SETTINGS.items()]
    course += [_shares(runs[0])] if len(runs) == 1 else []
    parts = ("Figures", quality), ("Course", course)
    return [
        (title, f"<div class=panels>{''.join(each)}</div>") for title, each in parts
    ]


def _panel(runs: Sequence[RunRecord], name: str, baseline: str, title: str) -> str:
    def draw(axes: Any) -> None:
        several, drawn = len(runs) > 1, False
        for i, run in enumerate(runs):
            colour, named = COLOURS[i % 7], f"{run.name} " if several else ""
            lines: list[Any] = [
                (curve(run, name), f"{named}training", {"lw": 1.1, "alpha": 0.65}),
                (curve(run, f"eval_{name}"), f"{named}held out", _dots(run, name)),
            ]
            same = _same(runs, baseline)
            if i == 0 or not same:
                level = curve(run, f"eval_{baseline}") if baseline else ([], [])
                what = baseline.removeprefix(name.partition("_")[0] + "_")
                what = what.partition("_")[0]
                how = {"ls": "--", "lw": 1.1, "color": COLOURS[-1]}
                whose = "" if same else named
                lines.append((level, f"{whose}{what} baseline", how))
            for (steps, values), label, how in lines:
                if not len(steps):
                    continue
                drawn = True
                # A setting is no figure of training: it needs no name.
                label = "_" if name in _SETTINGS and not several else label
                label = run.name if name in _SETTINGS and several else label
                axes.plot(steps, values, label=label, **{"color": colour, **how})
        if name == "grad_norm":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(which="minor", labelsize=7)
        if name in ("learning_rate", "tokens_per_second", "goodput"):
            axes.set_ylim(bottom=0)
        if drawn and (name not in _SETTINGS or several):
            axes.legend(frameon=False, fontsize=8)

    return _picture(draw, title)


def _dots(run: RunRecord, name: str) -> dict[str, Any]:
    many = len(curve(run, f"eval_{name}")[0]) > 40
    return {"lw": 1.8, "marker": "" if many else "o", "ms": 3.5}


def _same(runs: Sequence[RunRecord], baseline: str) -> bool:
    """Whether all runs were evaluated on the same rows, as a baseline tells."""
    ends = [curve(run, f"eval_{baseline}")[1][-1:].tolist() for run in runs]
    return all(each == ends[0] for each in ends)


def _shares(run: RunRecord) -> str:
    """Where the time of each line went."""

    def draw(axes: Any) -> None:
        records = [r for r in run.records if "time_step" in r]
        if not records:
            return
        # Means over parts of the run, because shares are not to be thinned by extremes.
        parts = np.array_split(np.arange(len(records)), min(len(records), 120))
        steps = [records[each[-1]]["step"] for each in parts]
        values = np.array([[r[f"time_{p}"] for p in PARTS] for r in records])
        means = np.array([values[each].mean(0) for each in parts]).T
        axes.stackplot(steps, means, labels=PARTS, colors=COLOURS, lw=0)
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

    return _picture(draw, "where the time went")


def _picture(draw: Callable[[Any], None], title: str) -> str:
    def on(figure: Any) -> None:
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.02)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if not axes.has_data():
            axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes)

    return picture(on, 5.0, 2.9, f"{title} over steps")


def chosen(steps: Sequence[int], most: int = 10) -> list[int]:
    """At most so many steps, at ratios as equal as they can be: the first, the last."""
    steps = sorted(steps)
    if len(steps) <= most:
        return list(steps)
    ratio = math.log((steps[-1] + 1) / (steps[0] + 1)) / (most - 1)
    wanted = [(steps[0] + 1) * math.exp(ratio * i) - 1 for i in range(most)]
    return sorted({min(steps, key=lambda step: abs(step - each)) for each in wanted})
