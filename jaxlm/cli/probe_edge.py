"""`jaxlm probe edge DIR …`: what each layer knows of a labelled file."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxlm.cli.arguments import parse
from jaxlm.cli.probe_page import Found, Probe, cache_path, look, over_training
from jaxlm.cli.runtime import say
from jaxlm.config.run import Count
from jaxlm.probe import Label
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader
    from jaxlm.probe.summary import Data


@dataclass(frozen=True, kw_only=True)
class Edge(Probe):
    """What each layer knows: edge probes of Tenney et al. on frozen states.

    The probe of layer k reads a mix of layers 0 … k. Beside it: the majority class, a
    model of the same shape with random weights, and a control task, which can only be
    learnt by heart; selectivity is the distance from it. Over training, both are left
    out: step 0 is a random model.
    """

    data: str
    """Training file, or a directory with the training and the dev file in it."""
    label: Label
    """upos, xpos, deps: of CoNLL-U; chunks: the third column of CoNLL; entities: its
    last column; json, srl, coref: JSON lines of edge probing, where for srl the labels
    R-… and C-… do not count, and for coref only the label 1 does."""
    dev: str = ""
    """Dev file; empty: the one beside the training file."""
    seeds: Count = 3
    """Probes of each layer, which differ in initial values and dropout."""
    sentences: Annotated[int, "[0, inf)"] = 4000
    """First sentences of the training and of the dev file to read; 0: all."""
    probe_steps: Count = 600
    """Steps of a probe, of 32 sentences; the rate falls from 0.001 to 0."""
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

    schedule = PUBLISHED if args.published else Schedule(args.probe_steps)
    how = summary.Setting(args.seeds, schedule, cache_path(args.cache), say)
    data = _data(args)

    def measure(reader: "Reader") -> Found:
        over, twin = over_training(args), None
        found = summary.curve(reader, data, how, control=not over)
        record = {"f1": found.f1, "weights": found.mix, "control": found.control}
        if not over:
            say("now the model of the same shape with random weights")
            twin = summary.curve(reader.untrained(0), data, how, control=False)
            record |= {"random_f1": twin.f1, "random_weights": twin.mix}
        record = {name: pictures.rounded(each) for name, each in record.items()}
        tables = summary.tables(found, reader.layers(), twin)
        return Found(tables, (), {"labels": list(data.names), **record})

    notes = [
        f"{len(data.train):,} and {len(data.dev):,} sentences of training and dev; "
        f"{plural(len(data.names), 'label')}; {plural(args.seeds, 'seed')}; "
        f"{schedule.steps:,} steps of {schedule.batch} sentences, rate "
        f"{schedule.rate:g}",
        "The probe of layer k reads a mix of layers 0 … k; gain is its F1 less that of "
        "k - 1, p is of McNemar's exact test of the two, selectivity is the distance "
        "from a control task; ± is the standard deviation over seeds.",
    ]
    return look(args, f"{args.label}: what layers know", notes, measure)


def _data(args: Edge) -> "Data":
    from jaxlm.probe.edges import read_edges
    from jaxlm.probe.summary import labelled
    from jaxlm.tasks.data_files import find_data_files

    files = find_data_files(args.data, args.dev)
    if not files.dev:
        raise UserError(f"no dev file beside {files.train}: --dev FILE")
    dropped = Counter[str]()
    train, dev = (read_edges(path, args.label, dropped) for path in files)
    for why, count in dropped.items():
        say(f"dropped {count:,} {why}")
    most = args.sentences or None
    return labelled(train[:most], dev[:most], args.label)
