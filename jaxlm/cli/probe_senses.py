"""`jaxlm probe senses DIR …`: the uses of a word, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.cli.arguments import parse
from jaxlm.cli.probe_page import Found, Probe, cache_path, look, over_training
from jaxlm.cli.runtime import say
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader
    from jaxlm.probe.senses import Near, Use

_LINES = 12  # uses on the screen
Measure = Callable[["Reader"], Found]


@dataclass(frozen=True, kw_only=True)
class Senses(Probe):
    """Vectors of one word in many contexts, by layer: which uses are near?"""

    word: str = ""
    """A word form, found in any case."""
    text: tuple[str, ...] = ()
    """Files with a text in each line; if all lines have a tab, the sense is before
    it."""
    data: str = ""
    """A word's directory of CoarseWSD-20, the directory of all its words, or that of
    Word-in-Context."""
    layers: tuple[int, ...] = ()
    """Layers from 0 (the embedding) or, from the end, -1; none: all."""
    cache: str = ""
    """Directory of the states that are computed once; empty: ~/.cache/jaxlm/probe."""


def run_probe_senses(argv: list[str]) -> int:
    """`jaxlm probe senses`."""
    args = parse(Senses, argv, verb="probe senses")
    if bool(args.data) == bool(args.word and args.text):
        raise UserError("probe senses needs --word and --text, or --data")
    if not args.data:
        title, notes, measure = _uses(args)
    elif (Path(args.data) / "dev").is_dir():
        title, notes, measure = _wic(args)
    else:
        title, notes, measure = _coarsewsd(args)
    return look(args, title, notes, measure)


def _layers(args: Senses, reader: "Reader") -> tuple[list[int], list[str]]:
    """The layers that are asked for, and their names."""
    every = reader.layers()
    count = len(every)
    for each in args.layers:
        if not -count <= each < count:
            raise UserError(f"layer {each}: there are 0 (embedding) to {count - 1}")
    numbers = sorted({each % count for each in args.layers}) or list(range(count))
    return numbers, [every[i] for i in numbers]


def _coarsewsd(args: Senses) -> tuple[str, list[str], Measure]:
    """Figures by layer, beside vectors that do not see the context; the mean over words
    if the directory has one for each word."""
    from jaxlm.probe import ladder, pictures, senses

    words = {each.name: each for each in senses.words_of(Path(args.data))}
    read = {name: senses.read_coarsewsd(path) for name, path in words.items()}
    ladders = {name: ladder.static_vectors([*a, *b]) for name, (a, b) in read.items()}

    def measure(reader: "Reader") -> Found:
        numbers, names = _layers(args, reader)
        every: dict[str, dict[str, list[float]]] = {}
        parts = []
        for word, split in read.items():
            uses, first = [*split[0], *split[1]], len(split[0])
            vectors = senses.vectors_of(reader, uses, cache_path(args.cache), say)
            forms = [each.word.lower() for each in uses]
            known = {"majority": np.ones((len(uses), 1)), **ladders[word]}
            known["word embedding (layer 0)"] = ladder.by_word(vectors[:, 0], forms)
            known |= {n: vectors[:, i] for n, i in zip(names, numbers, strict=True)}
            every[word] = {n: senses.figures(v, *split) for n, v in known.items()}
            if len(words) == 1:
                found = [senses.mapped(vectors[first:, i]) for i in numbers]
                picture = pictures.maps(names, found, [each.sense for each in split[1]])
                parts.append(("Maps of the test's uses", picture))
        rows = {
            name: np.mean([each[name] for each in every.values()], axis=0)
            for name in next(iter(every.values()))
        }
        low = [name for name in rows if name not in names]
        by_layer, static = (
            dict(zip(senses.FIGURES, np.stack([rows[n] for n in which]).T, strict=True))
            for which in (names, low)
        )
        drawn = [name for name in senses.FIGURES if "F1" in name]
        level = {"majority, and every static vector at most": rows["majority"][1]}
        tables = [
            pictures.Figures("No context", "vectors", low, static, fixed=True),
            pictures.Figures("Macro-F1", "layer", names, by_layer, drawn, level),
        ]
        return Found(tables, parts, {"words": every, "figures": senses.FIGURES})

    title = next(iter(words)) if len(words) == 1 else plural(len(words), "word")
    return f"senses of {title}", [], measure


def _wic(args: Senses) -> tuple[str, list[str], Measure]:
    """Whether two uses are of one sense, by a threshold of their cosine."""
    from jaxlm.probe import pictures, senses

    train, dev = senses.read_wic(Path(args.data))
    uses = [use for pairs in (train, dev) for pair in pairs for use in pair[:2]]
    gold, n = np.array([same for *_, same in (*train, *dev)]), len(train)

    def measure(reader: "Reader") -> Found:
        numbers, names = _layers(args, reader)
        vectors = senses.vectors_of(reader, uses, cache_path(args.cache), say)
        found = []
        for i in numbers:
            cosine = senses.cosines(vectors[::2, i], vectors[1::2, i])
            split = cosine[:n], gold[:n], cosine[n:], gold[n:]
            found.append(senses.by_threshold(*split))
        thresholds, right = zip(*found, strict=True)
        columns = {"accuracy": right, "threshold of the cosine": thresholds}
        share = float(gold[n:].mean())
        level = {"majority": max(share, 1 - share)}
        figures = "Accuracy on dev", "layer", names, columns, ["accuracy"], level
        return Found([pictures.Figures(*figures)])

    return "Word-in-Context", [], measure


def _uses(args: Senses) -> tuple[str, list[str], Measure]:
    """Which uses of a word in a text are near, and a map of them."""
    from jaxlm.probe import pictures, senses

    uses = senses.uses_of(args.word, args.text)
    kinds = [each.sense for each in uses]
    if over_training(args) and not any(kinds):
        raise UserError(
            "--steps needs senses: a sense and a tab in each line of --text"
        )

    def measure(reader: "Reader") -> Found:
        numbers, names = _layers(args, reader)
        vectors = senses.vectors_of(reader, uses, cache_path(args.cache), say)
        found = [senses.near(vectors[:, i]) for i in numbers]
        tables = []
        if any(kinds):
            same = {"same sense": [senses.agreement(each, kinds) for each in found]}
            title = "Uses whose nearest use has the same sense"
            tables = [pictures.Figures(title, "layer", names, same, ["same sense"])]
        if over_training(args):
            return Found(tables)
        maps = [senses.mapped(vectors[:, i]) for i in numbers]
        _show_uses(uses, dict(zip(names, found, strict=True)))
        layers = [
            {
                "layer": number,
                "nearest": each.nearest[:, :10].tolist(),
                "cosine": pictures.rounded(each.cosine),
                "map": pictures.rounded(plane.places),
            }
            for number, each, plane in zip(numbers, found, maps, strict=True)
        ]
        parts = [
            ("Maps by layer", pictures.maps(names, maps, kinds)),
            ("Nearest uses", pictures.uses_table(names, found, uses)),
        ]
        record = {"uses": [each._asdict() for each in uses], "layers": layers}
        return Found(tables, parts, {"word": args.word, **record})

    notes = [
        "Each map shows the first two principal components of the vectors of one "
        "layer; nearest is by cosine in all dimensions."
    ]
    return f"{args.word}: {plural(len(uses), 'use')}", notes, measure


def _show_uses(uses: "list[Use]", found: "dict[str, Near]") -> None:
    for i, use in enumerate(uses[:_LINES]):
        marked = f"{use.text[: use.begin]}[{use.word}]{use.text[use.end :]}"
        print(f"{i + 1:>3}  {use.sense:<10.10}  {marked}")
    if len(uses) > _LINES:
        print(f"     and {plural(len(uses) - _LINES, 'other use')}")
    for name, each in found.items():
        pairs = [
            f"{i + 1}→{j + 1} {each.cosine[i, j]:.2f}"
            for i, j in enumerate(each.nearest[:_LINES, 0])
        ]
        print(f"layer {name:<13}", "  ".join(pairs))
