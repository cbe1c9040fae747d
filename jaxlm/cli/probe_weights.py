"""`jaxlm probe weights TASK_RUN …`: what each layer is worth to tasks."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.probe_page import Found, check_out, write_page
from jaxlm.cli.runtime import start_jax
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.probe.pictures import Figures

_WEIGHT = re.compile(r"(?:eval_)?mix(_out)?_layer(\d+)")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each layer is worth to tasks: the weights of their mixes of layers (ELMo's
    scalar mix), beside each other and over training."""

    directory: Positional[tuple[str, ...]]
    """Runs of jaxlm finetune that train a mix, as ner_elmo does; of several seeds, the
    mean and the deviation."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""


def run_probe_weights(argv: list[str]) -> int:
    """`jaxlm probe weights`."""
    args = parse(Weights, argv, verb="probe weights")
    check_out(args.out)
    start_jax()
    from jaxlm.probe.pictures import Figures
    from jaxlm.probe.summary import spread
    from jaxlm.tasks.finetuned import best_figures, best_seed

    columns: dict[str, dict[int, np.ndarray]] = {}
    tables = []
    for directory in args.directory:
        seeds = sorted({p.parent for p in Path(directory).glob("seed-[0-9]*/best")})
        best = [best_figures(each) for each in seeds or [directory]]
        mixes = _mixes([each[1] for each in best if each])
        if not mixes:
            way = "finetune --task.mix input trains one, beside a dev file"
            raise UserError(f"{directory} has no evaluated mix of layers; {way}")
        for end, weights in mixes.items():
            name = Path(directory).name + end
            columns[name], columns[f"{name} ±"] = (
                dict(zip(weights, each, strict=True))
                for each in spread(list(weights.values()))
            )
        tables.append(_over_steps(Path(str(best_seed(directory))), directory))
    layers = sorted({layer for each in columns.values() for layer in each})
    names = [f"{layer}{' (embedding)' * (not layer)}" for layer in layers]
    shown = {
        name: [float(each.get(layer, np.nan)) for layer in layers]
        for name, each in columns.items()
    }
    drawn = [name for name in shown if not name.endswith(" ±")]
    tables = [Figures("Layer weights", "layer", names, shown, drawn), *tables]
    notes = ["The weights of a mix sum to 1; ± is the standard deviation over seeds."]
    return write_page(args, "Layer weights of tasks", notes, Found(tables))


def _mixes(found: list[dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Name of a mix → layer → its weight in each of some evaluations."""
    mixes: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for figures in found:
        for name, value in figures.items():
            if match := _WEIGHT.fullmatch(name):
                end = " (output)" if match[1] else ""
                mixes[end][int(match[2])].append(value)
    return mixes


def _over_steps(run: Path, directory: str) -> "Figures":
    from jaxlm.probe.pictures import by_step
    from jaxlm.train.log_files import read_metrics

    lines, _ = read_metrics(run / "metrics.jsonl")
    lines = [each for each in lines if any(map(_WEIGHT.fullmatch, each))]
    columns = {
        f"layer {layer}{end}": weights
        for end, mix in _mixes(lines).items()
        for layer, weights in mix.items()
    }
    title = f"{Path(directory).name} over training"
    steps = [int(each["step"]) for each in lines]
    return by_step(title, steps, columns, list(columns))
