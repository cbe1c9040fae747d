"""`jaxlm probe attention DIR TEXT`: where the heads of a model look."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.probe_page import (
    Found,
    Probe,
    check_out,
    over_training,
    steps_of,
    write_page,
)
from jaxlm.cli.runtime import say, start_jax
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.attention import Given, Heads, Looker


@dataclass(frozen=True, kw_only=True)
class Attention(Probe):
    """Where heads look: shares on the first token, [SEP], the token itself and those
    beside it, entropy and distance; a page with the maps of all heads on one text.

    A sink is a head with more than half on the first token. The first query counts
    nowhere: in a decoder, it sees itself alone.
    """

    sentence: Positional[str] = ""
    """A text; empty: the first line of --text."""
    pair: str = ""
    """A second text: the row is [CLS] sentence [SEP] pair [SEP], with token types where
    the model has them."""
    text: tuple[str, ...] = ()
    """Files with a text in each line, which the figures are of; none: the sentence."""
    lines: Annotated[int, "[0, inf)"] = 0
    """First lines of --text to read; 0: all."""
    layer: Annotated[int, "[0, inf)"] = 0
    """Layer, from 1; 0: all."""
    head: Annotated[int, "[0, inf)"] = 0
    """Head, from 1; 0: all."""


def run_probe_attention(argv: list[str]) -> int:
    """The kind `attention` of the verb `probe`."""
    args = parse(Attention, argv, verb="probe attention")
    check_out(args.out)
    texts, steps = _texts(args), steps_of(args)
    start_jax()
    from jaxlm.probe import attention_page as pages

    *before, last = steps or [None]
    every = [_heads_of(args, texts, step)[1] for step in before]
    looker, found, said = _heads_of(args, texts, last)
    every.append(found)
    n, h = found.figures["first"].shape
    layers, heads = _chosen("layer", args.layer, n), _chosen("head", args.head, h)
    notes = [
        said,
        f"Figures are of {plural(found.tokens, 'token')} in "
        f"{plural(found.rows, 'row')} of at most {looker.longest:,} tokens; a longer "
        "text is cut into several. They are means over queries, without the first of "
        "each row.",
    ]
    print(*notes, sep="\n")
    names = pages.known(found, causal=looker.causal)
    tables = [pages.by_layer(found, names)]
    if args.layer or args.head:
        tables = [pages.by_head(found, names, (layers, heads))]
    curve = []
    if several := over_training(args):
        tables.append(pages.by_step(steps, every))
        curve = [
            {"step": step, **_record(each)}
            for step, each in zip(steps, every, strict=True)
        ]
    _say_most(found, names)
    result = Found(tables, [], {**_record(found), "steps": curve})
    if args.out:
        pair = (args.sentence, args.pair) if args.pair else args.sentence
        given = pair or next(iter(texts()))
        shown, cut = pages.looked(looker, given, (layers, heads))
        if cut:
            notes.append(cut)
            print(cut)
        parts = pages.parts(shown, found, names)
        if several:
            picture = pages.over_training(steps, every)
            parts.insert(1, ("First token over training, by head", picture))
        result = result._replace(parts=parts)
    title = f"Where heads look: {args.directory}"
    code = {"style": pages.STYLE, "script": pages.SCRIPT}
    return write_page(args, title, notes, result, **code)


def _texts(args: Attention) -> "Callable[[], Iterable[Given]]":
    """The texts that figures are of; UserError if there are none."""
    from jaxlm.text.find import line_files
    from jaxlm.text.sources import read_lines

    if args.pair and not args.sentence.strip():
        raise UserError("--pair is the second text of two: give the first one")
    if not args.text:
        if not args.sentence.strip():
            raise UserError("probe attention needs a text that is not empty, or --text")
        return lambda: [(args.sentence, args.pair) if args.pair else args.sentence]

    files = line_files(args.text)

    def lines() -> Iterable[str]:
        every = itertools.chain.from_iterable(map(read_lines, files))
        filled = (line for line in every if line.strip())
        return itertools.islice(filled, args.lines or None)

    if next(iter(lines()), None) is None:
        raise UserError(f"--text {' '.join(args.text)}: there is no text in it")
    return lines


def _heads_of(
    args: Attention, texts: "Callable[[], Iterable[Given]]", step: int | None
) -> "tuple[Looker, Heads, str]":
    """A model whose attention is looked at, its figures, and what it is."""
    import jaxlm
    from jaxlm.probe.attention import Looker
    from jaxlm.probe.features import Reader

    model = jaxlm.load(args.directory, step=step)
    model.check_attends()
    config: Any = model.config
    at = "" if model.step is None else f" at step {model.step:,}"
    layers, heads = config.num_layers, config.num_heads
    _chosen("layer", args.layer, layers)
    _chosen("head", args.head, heads)
    said = f"{args.directory}{at}: {plural(layers, 'layer')} of {plural(heads, 'head')}"
    # A row is as long as the model's context or, of a run, as its rows.
    frame = model.family.frame(config, model.tokenizer)
    longest = model.family.window(config) + len(frame.begin) + len(frame.end)
    if model.step is not None:
        longest = min(longest, model.run.length)
    reader = Reader(config, model.params, model.tokenizer)
    looker = Looker(reader, longest)
    return looker, looker.heads(texts(), say), said


def _chosen(what: str, number: int, count: int) -> list[int]:
    if number > count:
        raise UserError(f"{what} {number}: there are 1 to {count}")
    return [number] if number else list(range(1, count + 1))


def _say_most(found: "Heads", names: list[str]) -> None:
    """The heads that look most at something."""
    from jaxlm.probe.attention_page import NAMES

    for name in names[:-2]:  # the shares
        each = found.figures[name]
        i, j = np.unravel_index(each.argmax(), each.shape)
        print(f"most on {NAMES[name]}: {each[i, j]:.2f}, layer {i + 1}, head {j + 1}")
    heads = found.figures["first"].size
    sinks = round(found.sinks.mean() * heads)
    print(f"sinks, heads with more than half on the first token: {sinks} of {heads}")
    print(f"a head that looks at all it sees alike has {found.even:.3f} there")


def _record(found: "Heads") -> dict[str, Any]:
    from jaxlm.probe.pictures import rounded

    figures = {name: rounded(each) for name, each in found.figures.items()}
    counts = {"tokens": found.tokens, "rows": found.rows, "even": found.even}
    return {**counts, "sinks": rounded(found.sinks), "figures": figures}
