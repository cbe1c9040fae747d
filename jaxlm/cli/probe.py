"""Look inside a model: `jaxlm probe senses DIR …`, `jaxlm probe edge DIR …`."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config.checks import instead
from jaxlm.config.run import Count
from jaxlm.files import cache_of
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader

Label = Literal["upos", "xpos", "deps", "chunks", "entities", "json", "srl", "coref"]
_LINES = 12  # uses on the screen


@dataclass(frozen=True, kw_only=True)
class Senses:
    """Vectors of one word in many contexts, by layer: which uses are near?"""

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    word: str = ""
    """A word form, found in any case."""
    text: tuple[str, ...] = ()
    """Files with a text in each line; if all lines have a tab, the sense is before
    it."""
    data: str = ""
    """A word's directory of CoarseWSD-20, the directory of all its words, or that of
    Word-in-Context."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""
    layers: tuple[int, ...] = ()
    """Layers from 0 (the embedding) or, from the end, -1; none: all."""
    cache: str = ""
    """Directory of the states that are computed once; empty: ~/.cache/jaxlm/probe."""


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


def run_probe(argv: list[str]) -> int:
    """The verb `probe`."""
    kinds = {"senses": _senses, "edge": _edge}
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: jaxlm probe {{{','.join(kinds)}}} DIRECTORY …, or with --help")
        return 0
    if argv[0] not in kinds:
        raise UserError(f"no probe {argv[0]!r}: {instead(argv[0], kinds)}")
    return kinds[argv[0]](argv[1:])


def _edge(argv: list[str]) -> int:
    args = parse(Edge, argv, verb="probe edge")
    from jaxlm.probe import page, summary
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
    reader, cache, notes = _opened(args)
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
    _show(head, rows)
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
    _show(["where it lies", "mean", "± sd"], where)
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
        ("Micro F1", page.curves(names, lines, levels, "F1", deviations)),
        (
            "Layer weights of the mix of all layers",
            page.curves(names, weights, {}, "weight"),
        ),
        ("Figures", page.figures_table(head, rows)),
        ("Where the task lies", page.figures_table(["", "mean", "± sd"], where)),
    ]
    record = {
        "label": args.label,
        "labels": list(data.names),
        "majority": level,
        "f1": page.rounded(found.f1),
        "control": page.rounded(found.control),
        "random_f1": page.rounded(twin.f1),
        "weights": page.rounded(found.mix),
        "random_weights": page.rounded(twin.mix),
        "p": tests[1:],
        "places": {k: [x if x == x else None for x in v] for k, v in where.items()},
    }
    return _write(args, f"{args.label}: what layers know", notes, parts, record)


def _opened(args: Any) -> tuple["Reader", Path, list[str]]:
    """(the model, the cache, notes on the model for a page)."""
    if args.out and Path(args.out).suffix != ".html":
        raise UserError(f"--out {args.out} is not .html")
    start_jax()
    import jaxlm
    from jaxlm.probe.features import Reader

    cache = Path(args.cache) if args.cache else cache_of("probe")
    model = jaxlm.load(args.directory)
    step = "" if model.step is None else f" at step {model.step:,}"
    notes = [f"{args.directory}{step}: {plural(model.config.num_layers, 'layer')}"]
    if not model.family.bidirectional:
        notes.append(
            f"{model.family.article} is causal: a word's vector knows only the text "
            "before the word, the context after it is not seen"
        )
        say(notes[-1])
    return Reader(model.config, model.params, model.tokenizer), cache, notes


def _senses(argv: list[str]) -> int:
    args = parse(Senses, argv, verb="probe senses")
    if bool(args.data) == bool(args.word and args.text):
        raise UserError("probe senses needs --word and --text, or --data")
    if args.data:
        return (_wic if (Path(args.data) / "dev").is_dir() else _coarsewsd)(args)
    return _uses(args)


def _coarsewsd(args: Senses) -> int:
    """Figures by layer, beside vectors that do not see the context; the mean over words
    if the directory has one for each word."""
    from jaxlm.probe import page, senses
    from jaxlm.probe.features import chosen
    from jaxlm.probe.ladder import by_word, static_vectors

    words = senses.words_of(Path(args.data))
    reader, cache, notes = _opened(args)
    numbers = chosen(args.layers, reader.config.num_layers + 1)
    names = [reader.layers()[i] for i in numbers]
    figures: dict[str, dict[str, list[float]]] = {}
    pictures = []
    for word in words:
        train, test = senses.read_coarsewsd(word)
        vectors = senses.vectors_of(reader, [*train, *test], cache, say)
        forms = [each.word.lower() for each in (*train, *test)]
        every = {"majority": np.ones((len(forms), 1))}
        every |= static_vectors([*train, *test])
        every["word embedding (layer 0)"] = by_word(vectors[:, 0], forms)
        every |= {
            f"layer {n}": vectors[:, i] for n, i in zip(names, numbers, strict=True)
        }
        figures[word.name] = {
            name: senses.figures(each, train, test) for name, each in every.items()
        }
        if len(words) == 1:
            found = [senses.near(vectors[len(train) :, i]) for i in numbers]
            picture = page.maps(names, found, [each.sense for each in test])
            pictures.append(("Maps of the test's uses", picture))
    rows = {
        name: np.mean([each[name] for each in figures.values()], axis=0).tolist()
        for name in next(iter(figures.values()))
    }
    title = (
        f"senses of {words[0].name if len(words) == 1 else plural(len(words), 'word')}"
    )
    head = ["vectors", *senses.FIGURES]
    _show(head, rows)
    lines = {
        f"macro-F1, {how}": [rows[f"layer {name}"][at] for name in names]
        for how, at in (("nearest neighbour", 1), ("centroid", 3))
    }
    level = {"majority, and every static vector at most": rows["majority"][1]}
    parts = [
        ("Macro-F1 by layer", page.curves(names, lines, level, "macro-F1")),
        ("Figures", page.figures_table(head, rows)),
    ]
    record = {"figures": senses.FIGURES, "mean": rows, "words": figures}
    return _write(args, title, notes, [*parts, *pictures], record)


def _wic(args: Senses) -> int:
    """Whether two uses are of one sense, by a threshold of their cosine."""
    from jaxlm.probe import page, senses
    from jaxlm.probe.features import chosen

    train, dev = senses.read_wic(Path(args.data))
    reader, cache, notes = _opened(args)
    numbers = chosen(args.layers, reader.config.num_layers + 1)
    names = [reader.layers()[i] for i in numbers]
    uses = [use for pairs in (train, dev) for pair in pairs for use in pair[:2]]
    vectors = senses.vectors_of(reader, uses, cache, say)
    gold = np.array([same for *_, same in (*train, *dev)])
    rows = {"majority": [float("nan"), float(max(gold.mean(), 1 - gold.mean()))]}
    for name, i in zip(names, numbers, strict=True):
        cosine = senses.cosines(vectors[::2, i], vectors[1::2, i])
        n = len(train)
        split = cosine[:n], gold[:n], cosine[n:], gold[n:]
        rows[f"layer {name}"] = list(senses.by_threshold(*split))
    head = ["vectors", "threshold of the cosine", "accuracy"]
    _show(head, rows)
    lines = {"accuracy": [rows[f"layer {name}"][1] for name in names]}
    level = {"majority": rows["majority"][1]}
    parts = [
        ("Accuracy by layer", page.curves(names, lines, level, "accuracy on dev")),
        ("Figures", page.figures_table(head, rows)),
    ]
    finite = {name: [v for v in row if v == v] for name, row in rows.items()}
    record = {"figures": head[1:], "layers": finite}
    return _write(args, "Word-in-Context", notes, parts, record)


def _show(head: list[str], rows: dict[str, list[float]]) -> None:
    wide = max(map(len, rows))
    wide = max(wide, len(head[0]))
    print(f"{head[0]:<{wide}}", *(f"{each:>7}" for each in head[1:]), sep="  ")
    for name, values in rows.items():
        shown = ["–" if v != v else f"{v:.3f}" for v in values]
        cells = [f"{v:>{max(7, len(h))}}" for v, h in zip(shown, head[1:], strict=True)]
        print(f"{name:<{wide}}", *cells, sep="  ")


def _write(args: Any, title: str, notes: list[str], parts: Any, record: dict) -> int:
    """Write the page and, beside it, the JSON."""
    from jaxlm.files import write_file, write_json
    from jaxlm.probe.page import page

    if args.out:
        beside = Path(args.out).with_suffix(".json")
        write_file(Path(args.out), page(title, notes, parts))
        write_json(beside, {"model": args.directory, "notes": notes, **record})
        print(f"{args.out}, {beside}")
    return 0


def _uses(args: Senses) -> int:
    from jaxlm.probe import page, senses
    from jaxlm.probe.features import chosen

    uses = senses.uses_of(args.word, args.text)
    reader, cache, notes = _opened(args)
    numbers = chosen(args.layers, reader.config.num_layers + 1)
    names = [reader.layers()[i] for i in numbers]
    vectors = senses.vectors_of(reader, uses, cache, say)
    found = [senses.near(vectors[:, i]) for i in numbers]
    kinds = [each.sense for each in uses]
    for i, use in enumerate(uses[:_LINES]):
        marked = f"{use.text[: use.begin]}[{use.word}]{use.text[use.end :]}"
        print(f"{i + 1:>3}  {use.sense:<10.10}  {marked}")
    if len(uses) > _LINES:
        print(f"     and {plural(len(uses) - _LINES, 'other use')}")
    for name, each in zip(names, found, strict=True):
        pairs = [
            f"{i + 1}→{j + 1} {each.cosine[i, j]:.2f}"
            for i, j in enumerate(each.nearest[:_LINES, 0])
        ]
        same = f"  same sense {senses.agreement(each, kinds):.0%}" * any(kinds)
        print(f"layer {name:<13}", "  ".join(pairs) + same)
    parts = [
        ("Maps by layer", page.maps(names, found, kinds)),
        ("Nearest uses", page.uses_table(names, found, uses)),
    ]
    notes.append(
        "Each map shows the first two principal components of the vectors of one "
        "layer; nearest is by cosine in all dimensions."
    )
    layers = [
        {
            "layer": number,
            "nearest": each.nearest[:, :10].tolist(),
            "cosine": page.rounded(each.cosine),
            "map": page.rounded(each.map),
        }
        for number, each in zip(numbers, found, strict=True)
    ]
    record = {"word": args.word, "uses": [each._asdict() for each in uses]}
    title = f"{args.word}: {plural(len(uses), 'use')}"
    return _write(args, title, notes, parts, record | {"layers": layers})
