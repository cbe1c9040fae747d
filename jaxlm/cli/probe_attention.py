"""`jaxlm probe attention DIR TEXT`: where the heads of a model look."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.probe_page import (
    Steps,
    check_out,
    over_training,
    steps_of,
    write_page,
)
from jaxlm.cli.runtime import say, start_jax
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.open import Model
    from jaxlm.probe.attention import Heads, Looker


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where heads look: shares on the first token, [SEP], the token itself and those
    beside it, entropy and distance; a page with the maps of all heads on one text.

    A sink is a head with more than half on the first token. The first query counts
    nowhere: in a decoder, it sees itself alone.
    """

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    sentence: tyro.conf.Positional[str] = ""
    """A text; empty: the first line of --text."""
    text: tuple[str, ...] = ()
    """Files with a text in each line, which the figures are of; none: the sentence."""
    lines: Annotated[int, "[0, inf)"] = 0
    """First lines of --text to read; 0: all."""
    layer: Annotated[int, "[0, inf)"] = 0
    """Layer, from 1; 0: all."""
    head: Annotated[int, "[0, inf)"] = 0
    """Head, from 1; 0: all."""
    steps: Steps = ()
    """Steps of a run to look at, or all that it keeps; none: the last."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""


def run_probe_attention(argv: list[str]) -> int:
    """The kind `attention` of the verb `probe`."""
    args = parse(Attention, argv, verb="probe attention")
    check_out(args.out)
    texts, steps = _texts(args), steps_of(args)
    start_jax()
    import jaxlm
    from jaxlm.probe.attention import Looker
    from jaxlm.probe.features import Reader

    model = jaxlm.load(args.directory, step=steps[-1] if steps else None)
    model.check_attends()
    config: Any = model.config
    layers = _chosen("layer", args.layer, config.num_layers)
    heads = _chosen("head", args.head, config.num_heads)
    reader = Reader(model.config, model.params, model.tokenizer)
    looker = Looker(reader, _longest(model))
    found = looker.heads(texts(), say)
    at = "" if model.step is None else f" at step {model.step:,}"
    notes = [
        f"{args.directory}{at}: {plural(config.num_layers, 'layer')} of "
        f"{plural(config.num_heads, 'head')}",
        f"Figures are of {plural(found.tokens, 'token')} in "
        f"{plural(found.rows, 'row')} of at most {looker.longest:,} tokens; a longer "
        "text is cut into several. They are means over queries, without the first of "
        "each row.",
    ]
    print(*notes, sep="\n")
    _show(found, layers, heads, causal=looker.causal)
    several = over_training(args)
    over = _over_steps(args, steps, looker, texts) if several else {}
    if args.out:
        sentence = args.sentence or next(iter(texts()))
        _write(args, looker, sentence, (layers, heads), notes, found, over)
    return 0


def _texts(args: Attention) -> Callable[[], Iterable[str]]:
    """The texts that figures are of; UserError if there are none."""
    from jaxlm.text.sources import read_lines

    if not args.text:
        if not args.sentence.strip():
            raise UserError("probe attention needs a text that is not empty, or --text")
        return lambda: [args.sentence]

    def lines() -> Iterable[str]:
        every = itertools.chain.from_iterable(map(read_lines, args.text))
        filled = (line for line in every if line.strip())
        return itertools.islice(filled, args.lines or None)

    if next(iter(lines()), None) is None:
        raise UserError(f"--text {' '.join(args.text)}: there is no text in it")
    return lines


def _chosen(what: str, number: int, count: int) -> list[int]:
    if number > count:
        raise UserError(f"{what} {number}: there are 1 to {count}")
    return [number] if number else list(range(1, count + 1))


def _longest(model: "Model") -> int:
    """The length of a row: that of the model's context or, of a run, the shorter one
    that it was trained on."""
    frame = model.family.frame(model.config, model.tokenizer)
    longest = model.family.window(model.config) + len(frame.begin) + len(frame.end)
    return longest if model.step is None else min(longest, model.run.length)


def _show(found: "Heads", layers: list[int], heads: list[int], *, causal: bool) -> None:
    """A row for each layer, with the means of its heads, or for each chosen head; then
    the heads that look most at something."""
    from jaxlm.probe.attention_page import NAMES, known

    names = known(found, causal=causal)
    every = {name: found.figures[name] for name in names}
    n, h = len(found.sinks), every["entropy"].shape[1]
    if (len(layers), len(heads)) == (n, h):
        sinks = [f"{round(share * h)} of {h}" for share in found.sinks]
        rows = [
            [str(i + 1), *(_said(each[i].mean()) for each in every.values()), sinks[i]]
            for i in range(n)
        ]
        _table(["layer", *names, "sinks"], rows)
    else:
        rows = [
            [str(i), str(j), *(_said(each[i - 1, j - 1]) for each in every.values())]
            for i in layers
            for j in heads
        ]
        _table(["layer", "head", *names], rows)
    for name in names[:-2]:  # the shares
        i, j = np.unravel_index(every[name].argmax(), every[name].shape)
        most = f"{every[name][i, j]:.2f}, layer {i + 1}, head {j + 1}"
        print(f"most on {NAMES[name]}: {most}")
    sinks = round(found.sinks.sum() * h)
    print(f"sinks, heads with more than half on the first token: {sinks} of {n * h}")
    print(f"a head that looks at all it sees alike has {found.even:.3f} there")


def _said(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _table(head: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=400).print(table)


def _over_steps(
    args: Attention,
    steps: list[int],
    looker: "Looker",
    texts: Callable[[], Iterable[str]],
) -> "dict[int, Heads]":
    """The figures at each step; a row of the sinks for each."""
    import jaxlm

    found = {}
    for step in steps:
        say(f"step {step:,}")
        params = jaxlm.load(args.directory, step=step).params
        found[step] = looker.heads(texts(), params=params)
    layers = range(1, 1 + len(found[steps[-1]].sinks))
    rows = [
        [f"{step:,}", _said(each.figures["first"].mean()), *map(_said, each.sinks)]
        for step, each in found.items()
    ]
    print("\nmean share on the first token, and share of sinks by layer")
    _table(["step", "first", *map(str, layers)], rows)
    return found


def _write(
    args: Attention,
    looker: "Looker",
    sentence: str,
    which: tuple[list[int], list[int]],
    notes: list[str],
    found: "Heads",
    over: "Mapping[int, Heads]",
) -> None:
    """The page and, beside it, the JSON."""
    from jaxlm.probe import attention_page as pages

    tokens, names = looker.frame.spelled(sentence)
    room = min(looker.room, pages.shown_tokens(len(which[0]) * len(which[1])))
    row = looker.frame.row(tokens[:room])
    if len(names) > room:
        notes = [*notes, f"Pictures are of the first {room} of {len(names):,} tokens."]
        print(notes[-1])
    at = np.ix_(*([i - 1 for i in each] for each in which))
    text = pages.Looked(looker.spelled(row), looker.probabilities(row)[at], *which)
    names = pages.known(found, causal=looker.causal)
    figures = {name: found.figures[name][at] for name in names}
    parts = [
        ("Heads by layer", pages.explorer(text, figures)),
        ("Means of layers", pages.by_layer(found, names)),
        ("Figures", pages.figures_table(text, figures)),
    ]
    if over:
        picture = pages.over_training([*over], [*over.values()])
        said = "Dashed: above, a head is a sink. Dotted: all that is seen, alike."
        picture += f"<p class=note>{said}</p>"
        parts.insert(1, ("First token over training", picture))
    title = f"Where heads look: {args.directory}"
    code = {"style": pages.STYLE, "script": pages.SCRIPT}
    each = [{"step": step, **_record(heads)} for step, heads in over.items()]
    write_page(args, title, notes, parts, {**_record(found), "steps": each}, **code)


def _record(found: "Heads") -> dict[str, Any]:
    from jaxlm.probe.attention_page import numbers

    figures = {name: numbers(each) for name, each in found.figures.items()}
    counts = {"tokens": found.tokens, "rows": found.rows, "even": found.even}
    return {**counts, "sinks": numbers(found.sinks), "figures": figures}
