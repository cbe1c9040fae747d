"""Look inside a model: `jaxlm probe senses DIR …`, `jaxlm probe edge DIR …`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config.checks import instead
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader

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
    """A word's directory of CoarseWSD-20, or the directory of Word-in-Context."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""
    layers: tuple[int, ...] = ()
    """Layers from 0 (the embedding) or, from the end, -1; none: all."""
    cache: str = ""
    """Directory of the states that are computed once; empty: ~/.cache/jaxlm/probe."""


def run_probe(argv: list[str]) -> int:
    """The verb `probe`."""
    kinds = {"senses": _senses}
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: jaxlm probe {{{','.join(kinds)}}} DIRECTORY …, or with --help")
        return 0
    if argv[0] not in kinds:
        raise UserError(f"no probe {argv[0]!r}: {instead(argv[0], kinds)}")
    return kinds[argv[0]](argv[1:])


def _opened(args: Any) -> tuple["Reader", Path, list[str]]:
    """(the model, the cache, notes on the model for a page)."""
    if args.out and Path(args.out).suffix != ".html":
        raise UserError(f"--out {args.out} is not .html")
    start_jax()
    import jaxlm
    from jaxlm.probe.features import Reader

    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    cache = Path(args.cache or f"{home}/jaxlm/probe")
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
    return _uses(args)


def _uses(args: Senses) -> int:
    from jaxlm.files import write_file, write_json
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
        print(f"{i + 1:>3}  {use.sense:<10.10}  {marked}" if any(kinds) else marked)
    if len(uses) > _LINES:
        print(f"     and {plural(len(uses) - _LINES, 'other use')}")
    for name, each in zip(names, found, strict=True):
        pairs = [
            f"{i + 1}→{j + 1} {each.cosine[i, j]:.2f}"
            for i, j in enumerate(each.nearest[:_LINES, 0])
        ]
        same = f"  same sense {senses.agreement(each, kinds):.0%}" * any(kinds)
        print(f"layer {name:<13}", "  ".join(pairs) + same)
    if args.out:
        parts = [
            ("Maps by layer", page.maps(names, found, kinds)),
            ("Nearest uses", page.uses_table(names, found, uses)),
        ]
        notes.append(
            "Each map shows the first two principal components of the vectors of one "
            "layer; nearest is by cosine in all dimensions."
        )
        title = f"{args.word}: {plural(len(uses), 'use')}"
        write_file(Path(args.out), page.page(title, notes, parts))
        record = {
            "model": args.directory,
            "word": args.word,
            "notes": notes,
            "uses": [each._asdict() for each in uses],
            "layers": [
                {
                    "layer": number,
                    "nearest": each.nearest[:, :10].tolist(),
                    "cosine": page.rounded(each.cosine),
                    "map": page.rounded(each.map),
                }
                for number, each in zip(numbers, found, strict=True)
            ],
        }
        write_json(Path(args.out).with_suffix(".json"), record)
        print(f"{args.out}, {Path(args.out).with_suffix('.json')}")
    return 0
