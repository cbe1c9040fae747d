"""Figures of heads, and the probabilities of one text → the parts of a page.

The page holds the probabilities as bytes, of their square roots in 255ths: of small
ones they keep three digits, of large ones two, and they are the strength of a pixel as
they are. `attention.js` draws from them; the pictures without pointer are SVG.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.page import COLOURS, GRID, picture, table
from jaxlm.probe.attention import FIGURES, SINK, Heads

_HERE = Path(__file__).parent
STYLE, SCRIPT = (
    (_HERE / f"attention.{kind}").read_text("utf-8") for kind in ("css", "js")
)
NAMES = {
    "first": "first token",
    "sep": "[SEP]",
    "itself": "itself",
    "previous": "previous token",
    "next": "next token",
    "entropy": "entropy in nats",
    "distance": "distance in tokens",
}
_MOST = 1_500_000  # probabilities in a page
_COLUMNS = 4
_HTML = """
<p><label>Colour heads by <select id=figure><option value="">their map</option>{}
</select></label></p>
<div class=wide><div id=heads role=group aria-label="heads by layer"></div></div>
<output id=said></output>
<noscript><p class=note>These pictures need JavaScript.</p></noscript>
<h2 id=which></h2>
<p class=note>On the left who looks, on the right what it looks at. Pick a token with
the pointer or the arrow keys; Escape shows all lines from 0.05 on. In the map a row
looks at columns. Strength is the square root of the probability.</p>
<div id=one>
<div id=lines><div id=from role=group aria-label="tokens that look"></div>
<svg preserveAspectRatio=none id=between aria-hidden=true></svg><div id=to></div></div>
<div id=around><div class=wide><div id=map><div id=columns></div><div id=rows></div>
<canvas id=cells></canvas></div></div><output id=pair></output></div></div>
<script type="application/json" id=data>{}</script>
"""


class Looked(NamedTuple):
    """A text's tokens with the probabilities [N, H, L, L] of layers and heads, which
    are counted from 1."""

    tokens: Sequence[str]
    probabilities: np.ndarray
    layers: Sequence[int]
    heads: Sequence[int]


def shown_tokens(heads: int) -> int:
    """How many tokens a page shows at most, if it shows so many heads."""
    return int(max(16, min(128, (_MOST / heads) ** 0.5)))


def known(found: Heads, *, causal: bool) -> list[str]:
    """The names of the figures that the model can have: a decoder sees nothing next."""
    every = [name for name in FIGURES if not np.isnan(found.figures[name]).all()]
    return [name for name in every if not (causal and name == "next")]


def explorer(text: Looked, figures: Mapping[str, np.ndarray]) -> str:
    """Heads by layer, and the map and the lines of one; `figures` are of its heads.

    It begins with the head that takes most from the first token.
    """
    roots = np.round(255 * np.sqrt(text.probabilities)).astype(np.uint8)
    first = np.nan_to_num(text.probabilities[:, :, 1:, 0]).sum(-1)
    begin = np.unravel_index(first.argmax(), first.shape)
    data = {
        "tokens": list(text.tokens),
        "layers": list(text.layers),
        "heads": list(text.heads),
        "names": NAMES,
        "figures": {name: numbers(each) for name, each in figures.items()},
        "start": [int(each) for each in begin],
        "roots": base64.b64encode(roots.tobytes()).decode(),
    }
    options = "".join(
        f"<option value={name}>{html.escape(NAMES[name])}</option>" for name in figures
    )
    # ASCII without "<": no text can end the element.
    return _HTML.format(options, json.dumps(data).replace("<", "\\u003c"))


def by_layer(found: Heads, names: Sequence[str]) -> str:
    """The mean shares of each layer's heads, and the share of its sinks, as curves."""
    layers = np.arange(len(found.sinks)) + 1
    lines = {NAMES[n]: found.figures[n].mean(1) for n in names if n in FIGURES[:5]}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for i, (name, each) in enumerate(lines.items()):
            axes.plot(layers, each, marker=".", color=COLOURS[i], label=name)
        how = {"color": COLOURS[-1], "ls": "--"}
        axes.plot(layers, found.sinks, label="heads that are sinks", **how)
        axes.set_xticks(layers)
        _share(axes, "layer", "mean over heads")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)

    return picture(draw, 9.0, 3.2, "where the heads of each layer look")


def over_training(steps: Sequence[int], found: Sequence[Heads]) -> str:
    """The share of each head on the first token over the steps, a picture a layer.

    Dashed: above, a head is a sink. Dotted: a head that looks at all it sees alike.
    """
    first = np.stack([each.figures["first"] for each in found])
    layers, heads = first.shape[1:]
    columns, rows = min(_COLUMNS, layers), -(-layers // _COLUMNS)

    def draw(figure: Any) -> None:
        every = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for axes in every[layers:]:
            axes.set_axis_off()
        for n, axes in enumerate(every[:layers]):
            for h in range(heads):
                how = {"marker": ".", "ms": 3, "lw": 1, "color": COLOURS[h % 7]}
                axes.plot(steps, first[:, n, h], label=f"head {h + 1}", **how)
            axes.axhline(SINK, color=COLOURS[-1], ls="--", lw=1)
            axes.axhline(found[0].even, color=COLOURS[-1], ls=":", lw=1)
            axes.set_title(f"layer {n + 1}", fontsize=10)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(0, steps[-1])
            _share(axes, "step", "on the first token" if n % columns == 0 else "")
        if heads <= 8:
            named = every[0].get_legend_handles_labels()
            place = {"loc": "outside lower center", "ncols": heads}
            figure.legend(*named, frameon=False, fontsize=9, **place)

    size = 2.6 * columns + 0.4, 2.4 * rows + 0.4
    return picture(draw, *size, "share on the first token over training, by head")


def _share(axes: Any, x: str, y: str) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color=GRID)


def figures_table(text: Looked, figures: Mapping[str, np.ndarray]) -> str:
    """Every figure of every head, folded."""
    rows = [
        [str(layer), str(head), *(f"{each[n, h]:.3f}" for each in figures.values())]
        for n, layer in enumerate(text.layers)
        for h, head in enumerate(text.heads)
    ]
    inside = table(["layer", "head", *(NAMES[name] for name in figures)], rows)
    return f"<details><summary>{len(rows)} heads</summary>{inside}</details>"


def numbers(values: np.ndarray) -> Any:
    """An array as nested lists for JSON, where NaN is null."""
    rounded = np.round(values.astype(np.float64), 5).astype(object)
    return np.where(np.isnan(values), np.array(None), rounded).tolist()
