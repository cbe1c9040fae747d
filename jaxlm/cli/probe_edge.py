"""`jaxlm probe edge DIR …`: what each layer knows of a labelled file."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.probe_page import opened, show_table, write_page
from jaxlm.cli.runtime import say
from jaxlm.config.run import Count
from jaxlm.page import figures_table
from jaxlm.types import UserError, plural

Label = Literal["upos", "xpos", "deps", "chunks", "entities", "json", "srl", "coref"]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What each layer knows: edge probes of Tenney et al. on frozen states.

    The probe of layer k reads a mix of layers 0 … k. Beside it: the majority class, a
    model of the same shape with random weights, and a control task, which can only be
    learnt by heart; selectivity is the distance from it.
    """

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    data: str
    """Training file, or a directory with the training and the dev file in it."""
    label: Label
    """upos, xpos, deps: of CoNLL-U; chunks: the third column of CoNLL; entities: its
    last column; json, srl, coref: JSON lines of edge probing, where for srl the labels
    R-… and C-… do not count, and for coref only the label 1 does."""
    dev: str = ""
    """Dev file; empty: the one beside the training file."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""
    seeds: Count = 3
    """Probes of each layer, which differ in initial values and dropout."""
    sentences: Annotated[int, "[0, inf)"] = 4000
    """First sentences of the training and of the dev file to read; 0: all."""
    steps: Count = 600
    """Steps, of 32 sentences; the rate falls from 0.001 to 0."""
    published: bool = False
    """Train as published instead: up to 250,000 steps at a rate of 0.0001, halved after
    5 validations of 1,000 steps without progress, and ended after 20."""
    cache: str = ""
    """Directory of the states that are computed once; empty: ~/.cache/jaxlm/probe."""


def run_probe_edge(argv: list[str]) -> int:
    """`jaxlm probe edge`."""
    args = parse(Edge, argv, verb="probe edge")
    from jaxlm.probe import pictures, summary
    from jaxlm.probe.edge import PUBLISHED, Schedule
    from jaxlm.probe.edges import read_edges
    from jaxlm.tasks.data_files import find_data_files

    files = find_data_files(args.data, args.dev)
    if not files.dev:
        raise UserError(f"no dev file beside {files.train}: --dev FILE")
    dropped = Counter[str]()
    sets = [read_edges(path, args.label, dropped) for path in files]
    for why, count in dropped.items():
        say(f"dropped {count:,} {why}")
    reader, cache, notes = opened(args)
    read = [each[: args.sentences or None] for each in sets]
    data = summary.labelled(read[0], read[1], args.label)
    schedule = PUBLISHED if args.published else Schedule(args.steps)
    how = args.seeds, schedule, cache, say
    found, level = summary.curve(reader, data, *how)
    say("now the model of the same shape with random weights")
    twin, _ = summary.curve(reader.untrained(0), data, *how, control=False)
    names, tests = reader.layers(), [float("nan"), *summary.paired(found)]
    (f1, sd), (control, _), (other, other_sd) = map(
        summary.spread, (found.f1, found.control, twin.f1)
    )
    gains = np.diff(f1, prepend=np.nan)
    columns = f1, sd, gains, tests, f1 - control, other, other_sd
    head = ["layers", "F1", "± sd", "gain", "p", "selectivity", "random F1", "± sd"]
    rows = {
        f"0 … {i}": [float(column[i]) for column in columns] for i in range(len(names))
    }
    show_table(head, rows)
    places = {
        name: list(map(summary.spread, summary.place(each)))
        for name, each in (("", found), (", random weights", twin))
    }
    what = "centre of gravity", "expected layer", "focus of the mix (KL, nats)"
    where = {
        f"{name}{whose}": [float(mean), float(deviation)]
        for whose, each in places.items()
        for name, (mean, deviation) in zip(what, each, strict=True)
    }
    print()
    show_table(["where it lies", "mean", "± sd"], where)
    print(f"majority class: F1 {level:.3f}")
    sizes = " and ".join(f"{len(each):,}" for each in read)
    notes += [
        f"{sizes} sentences of training and dev; {plural(len(data.names), 'label')}; "
        f"{plural(args.seeds, 'seed')}; {schedule.steps:,} steps of "
        f"{schedule.batch} sentences, rate {schedule.rate:g}",
        "The probe of layer k reads a mix of layers 0 … k; gain is its F1 less that of "
        "k - 1, p is of McNemar's exact test of the two, selectivity is the distance "
        "from a control task.",
    ]
    lines = {"F1": f1, "control task": control, "random weights": other}
    deviations = {"F1": sd, "random weights": other_sd}
    levels = {"majority class": level}
    weights = {"weights": found.mix.mean(0), "random weights": twin.mix.mean(0)}
    parts = [
        ("Micro F1", pictures.curves(names, lines, levels, "F1", deviations)),
        (
            "Layer weights of the mix of all layers",
            pictures.curves(names, weights, {}, "weight"),
        ),
        ("Figures", figures_table(head, rows)),
        ("Where the task lies", figures_table(["", "mean", "± sd"], where)),
    ]
    record = {
        "label": args.label,
        "labels": list(data.names),
        "majority": level,
        "f1": pictures.rounded(found.f1),
        "control": pictures.rounded(found.control),
        "random_f1": pictures.rounded(twin.f1),
        "weights": pictures.rounded(found.mix),
        "random_weights": pictures.rounded(twin.mix),
        "p": tests[1:],
        "places": {k: [x if x == x else None for x in v] for k, v in where.items()},
    }
    return write_page(args, f"{args.label}: what layers know", notes, parts, record)
