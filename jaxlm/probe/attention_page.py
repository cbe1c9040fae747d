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

from jaxlm.page import COLOURS, GRID, picture
from jaxlm.probe import pictures
from jaxlm.probe.attention import FIGURES, SINK, Given, Heads, Looker
from jaxlm.probe.pictures import Figures, panels, panels_size, rounded

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


def looked(
    looker: Looker, text: Given, which: tuple[Sequence[int], Sequence[int]]
) -> tuple[Looked, str]:
    """(the text at layers and heads, as much as a page shows; a note if it is cut)."""
    layers, heads = which
    most = (_MOST / (len(layers) * len(heads))) ** 0.5
    around = looker.longest - looker.room
    room = min(looker.room, int(max(16, min(128, most))))
    looker = Looker(looker.reader, room + around)
    row, *rest = looker.rows([text])
    count = len(row.tokens) + sum(len(each.tokens) - around for each in rest) - around
    cut = f"Pictures are of the first {room} of {count:,} tokens." if rest else ""
    at = np.ix_(np.array(layers) - 1, np.array(heads) - 1)
    return Looked(looker.spelled(row), looker.probabilities(row)[at], *which), cut


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
        "figures": {name: rounded(each) for name, each in figures.items()},
        "start": [int(each) for each in begin],
        "roots": base64.b64encode(roots.tobytes()).decode(),
    }
    options = "".join(
        f"<option value={name}>{html.escape(NAMES[name])}</option>" for name in figures
    )
    # ASCII without "<": no text can end the element.
    return _HTML.format(options, json.dumps(data).replace("<", "\\u003c"))


def by_layer(found: Heads, names: Sequence[str]) -> Figures:
    """The means of each layer's heads, and the share of its sinks."""
    columns = {name: found.figures[name].mean(1) for name in names}
    columns["sinks"] = found.sinks
    drawn = [name for name in columns if name not in ("entropy", "distance")]
    numbers = [str(i + 1) for i in range(len(found.sinks))]
    return Figures("Means of layers", "layer", numbers, columns, drawn)


def by_head(found: Heads, names: Sequence[str], which: Any) -> Figures:
    """The figures of layers and heads, which are counted from 1."""
    places = [(layer, head) for layer in which[0] for head in which[1]]
    i, j = np.array(places).T - 1
    columns = {name: found.figures[name][i, j] for name in names}
    heads = [f"layer {layer}, head {head}" for layer, head in places]
    return Figures("Figures of heads", "", heads, columns)


def by_step(steps: Sequence[int], found: Sequence[Heads]) -> Figures:
    """The mean share on the first token, and the share of each layer's sinks."""
    columns = {"first": [each.figures["first"].mean() for each in found]}
    for i in range(len(found[0].sinks)):
        columns[f"sinks of layer {i + 1}"] = [each.sinks[i] for each in found]
    return pictures.by_step("First token over training", steps, columns)


def parts(text: Looked, found: Heads, names: Sequence[str]) -> list[tuple[str, str]]:
    """The parts of a page: heads to look at, and every figure of each, folded."""
    which = text.layers, text.heads
    at = np.ix_(*(np.array(each) - 1 for each in which))
    figures = {name: found.figures[name][at] for name in names}
    every = by_head(found, names, which)
    count = f"<summary>{len(every.names)} heads</summary>"
    folded = f"<details>{count}{every.html()}</details>"
    return [("Heads by layer", explorer(text, figures)), (every.title, folded)]


def over_training(steps: Sequence[int], found: Sequence[Heads]) -> str:
    """The share of each head on the first token over the steps, a picture a layer."""
    first = np.stack([each.figures["first"] for each in found])
    layers, heads = first.shape[1:]

    def draw(figure: Any) -> None:
        for n, axes in enumerate(panels(figure, layers, sharey=True)):
            for h in range(heads):
                how = {"marker": ".", "ms": 3, "lw": 1, "color": COLOURS[h % 7]}
                axes.plot(steps, first[:, n, h], label=f"head {h + 1}", **how)
            axes.axhline(SINK, color=COLOURS[-1], ls="--", lw=1)
            axes.axhline(found[0].even, color=COLOURS[-1], ls=":", lw=1)
            axes.set_title(f"layer {n + 1}", fontsize=10)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(0, steps[-1])
            axes.set_ylim(-0.02, 1.02)
            axes.set_xlabel("step")
            axes.grid(axis="y", color=GRID)
        figure.axes[0].set_ylabel("on the first token")
        if heads <= 8:
            named = figure.axes[0].get_legend_handles_labels()
            place = {"loc": "outside lower center", "ncols": heads}
            figure.legend(*named, frameon=False, fontsize=9, **place)

    said = "share on the first token over training, by head"
    drawn = picture(draw, *panels_size(layers, 2.6, 2.4), said)
    lines = "Dashed: above, a head is a sink. Dotted: all that is seen, alike."
    return f"{drawn}<p class=note>{lines}</p>"
