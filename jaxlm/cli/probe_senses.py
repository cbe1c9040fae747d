"""`jaxlm probe senses DIR …`: the uses of a word, layer by layer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.probe_page import opened, show_table, write_page
from jaxlm.cli.runtime import say
from jaxlm.page import figures_table
from jaxlm.types import UserError, plural

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


def run_probe_senses(argv: list[str]) -> int:
    """`jaxlm probe senses`."""
    args = parse(Senses, argv, verb="probe senses")
    if bool(args.data) == bool(args.word and args.text):
        raise UserError("probe senses needs --word and --text, or --data")
    if args.data:
        return (_wic if (Path(args.data) / "dev").is_dir() else _coarsewsd)(args)
    return _uses(args)


def _coarsewsd(args: Senses) -> int:
    """Figures by layer, beside vectors that do not see the context; the mean over words
    if the directory has one for each word."""
    from jaxlm.probe import pictures, senses
    from jaxlm.probe.features import chosen
    from jaxlm.probe.ladder import by_word, static_vectors

    words = senses.words_of(Path(args.data))
    reader, cache, notes = opened(args)
    numbers = chosen(args.layers, reader.config.num_layers + 1)
    names = [reader.layers()[i] for i in numbers]
    figures: dict[str, dict[str, list[float]]] = {}
    maps = []
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
            drawn = pictures.maps(names, found, [each.sense for each in test])
            maps.append(("Maps of the test's uses", drawn))
    rows = {
        name: np.mean([each[name] for each in figures.values()], axis=0).tolist()
        for name in next(iter(figures.values()))
    }
    title = (
        f"senses of {words[0].name if len(words) == 1 else plural(len(words), 'word')}"
    )
    head = ["vectors", *senses.FIGURES]
    show_table(head, rows)
    lines = {
        f"macro-F1, {how}": [rows[f"layer {name}"][at] for name in names]
        for how, at in (("nearest neighbour", 1), ("centroid", 3))
    }
    level = {"majority, and every static vector at most": rows["majority"][1]}
    parts = [
        ("Macro-F1 by layer", pictures.curves(names, lines, level, "macro-F1")),
        ("Figures", figures_table(head, rows)),
    ]
    record = {"figures": senses.FIGURES, "mean": rows, "words": figures}
    return write_page(args, title, notes, [*parts, *maps], record)


def _wic(args: Senses) -> int:
    """Whether two uses are of one sense, by a threshold of their cosine."""
    from jaxlm.probe import pictures, senses
    from jaxlm.probe.features import chosen

    train, dev = senses.read_wic(Path(args.data))
    reader, cache, notes = opened(args)
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
    show_table(head, rows)
    lines = {"accuracy": [rows[f"layer {name}"][1] for name in names]}
    level = {"majority": rows["majority"][1]}
    parts = [
        ("Accuracy by layer", pictures.curves(names, lines, level, "accuracy on dev")),
        ("Figures", figures_table(head, rows)),
    ]
    finite = {name: [v for v in row if v == v] for name, row in rows.items()}
    record = {"figures": head[1:], "layers": finite}
    return write_page(args, "Word-in-Context", notes, parts, record)


def _uses(args: Senses) -> int:
    from jaxlm.probe import pictures, senses
    from jaxlm.probe.features import chosen

    uses = senses.uses_of(args.word, args.text)
    reader, cache, notes = opened(args)
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
        ("Maps by layer", pictures.maps(names, found, kinds)),
        ("Nearest uses", pictures.uses_table(names, found, uses)),
    ]
    notes.append(
        "Each map shows the first two principal components of the vectors of one "
        "layer; nearest is by cosine in all dimensions."
    )
    layers = [
        {
            "layer": number,
            "nearest": each.nearest[:, :10].tolist(),
            "cosine": pictures.rounded(each.cosine),
            "map": pictures.rounded(each.map),
        }
        for number, each in zip(numbers, found, strict=True)
    ]
    record = {"word": args.word, "uses": [each._asdict() for each in uses]}
    title = f"{args.word}: {plural(len(uses), 'use')}"
    return write_page(args, title, notes, parts, record | {"layers": layers})
