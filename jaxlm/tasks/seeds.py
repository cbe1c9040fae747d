"""Runs of several seeds: one table with mean ± standard deviation, and the best one.

WORKDIR/seed-0  WORKDIR/seed-1 …        each a run directory
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from jaxlm.checkpoints import Checkpoints
from jaxlm.config import FinetuneConfig
from jaxlm.train.screen import shown
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError


def best_figures(workdir: str | Path) -> tuple[int, dict[str, float]] | None:
    """(step, figures on the dev file) of a run's best checkpoint; None without one."""
    checkpoints = Checkpoints(f"{workdir}/best")
    steps = checkpoints.steps()
    return (steps[-1], checkpoints.manifest(steps[-1]).meta) if steps else None


def run_of(directory: str | Path) -> Path:
    """A run directory: the one named, or of its seeds that which did best on dev.

    Raises:
        UserError: there are seeds, and no dev file chose between them.
    """
    here = Path(directory)
    number_of = {
        path.parent: int(path.parent.name[5:])
        for path in here.glob("seed-*/config.json")
        if path.parent.name[5:].isdecimal()
    }
    seeds = sorted(number_of, key=number_of.__getitem__)
    if (here / "config.json").is_file() or not seeds:
        return here
    config = read_config(seeds[0])
    if not isinstance(config, FinetuneConfig):
        return here
    figures = {seed: best_figures(seed) for seed in seeds}
    known = {
        seed: each[1][config.task.metric] for seed, each in figures.items() if each
    }
    if not known:
        names = ", ".join(map(str, seeds[:5]))
        raise UserError(
            f"{here} has several seeds and none was evaluated: name {names}"
        )
    return max(known, key=known.__getitem__)


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
