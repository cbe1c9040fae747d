"""Figures of several seeds → one table with mean ± standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from jaxlm.train.screen import shown


def table(figures: Mapping[int, Mapping[str, float]]) -> list[str]:
    """A line a figure, a column a seed; the deviation is that of a sample (n - 1)."""
    names = list(next(iter(figures.values())))
    wide = max(map(len, names))
    head = f"{'':<{wide}}  " + "  ".join(f"{f'seed {s}':>9}" for s in figures)
    lines = [f"{head}  {'mean':>9} ± sd"]
    for name in names:
        values = [each[name] for each in figures.values()]
        mean = statistics.fmean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells = "  ".join(f"{shown(name, value):>9}" for value in values)
        both = f"{shown(name, mean):>9} ± {shown(name, spread)}"
        lines.append(f"{name:<{wide}}  {cells}  {both}")
    return lines
