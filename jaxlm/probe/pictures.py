"""Vectors and figures by layer → the pictures and tables of the probes' pages."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlm.page import COLOURS, GRID, MARKS, picture, table
from jaxlm.probe.senses import Near, Use

_COLUMNS = 4
_LISTED = 60  # uses in the table of a page


def maps(layers: Sequence[str], found: Sequence[Near], senses: Sequence[str]) -> str:
    """A map of uses for each layer; uses are numbered if they are few."""
    rows = -(-len(layers) // _COLUMNS)
    columns = min(_COLUMNS, len(layers))
    kinds = list(dict.fromkeys(senses))
    numbered = len(senses) <= 40

    def draw(figure: Any) -> None:
        every = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in every[len(layers) :]:
            axes.set_axis_off()
        for axes, name, each in zip(every, layers, found, strict=False):
            axes.set_title(f"layer {name}", fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.margins(0.14)
            for i, kind in enumerate(kinds):
                here = each.map[[sense == kind for sense in senses]]
                how = {"color": COLOURS[i % 7], "marker": MARKS[i % 7]}
                size = 26 if numbered else 8
                axes.scatter(*here.T, s=size, label=kind, linewidths=0, **how)
            at = {"textcoords": "offset points", "fontsize": 9}
            for i, place in enumerate(each.map if numbered else ()):
                axes.annotate(str(i + 1), place, (4, 3), **at)
            axes.set_xlabel(f"{each.shown:.0%} of the variance", fontsize=8)
        if any(kinds):
            handles, labels = figure.axes[0].get_legend_handles_labels()
            place = {"loc": "outside lower center", "ncols": min(6, len(kinds))}
            figure.legend(handles, labels, frameon=False, **place)

    return picture(draw, 2.7 * columns + 0.3, 2.7 * rows + 0.4)


def curves(
    layers: Sequence[str],
    lines: Mapping[str, Any],
    levels: Mapping[str, float],
    label: str,
    spread: Mapping[str, Any] | None = None,
) -> str:
    """Curves over layers, with ± `spread`; `levels` are dashed, one for all layers."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for i, (name, values) in enumerate(lines.items()):
            how: dict[str, Any] = {"color": COLOURS[i % 7], "marker": MARKS[i % 7]}
            error = (spread or {}).get(name)
            axes.errorbar(range(len(layers)), values, error, label=name, ms=4, **how)
        for i, (name, value) in enumerate(levels.items()):
            style = ("--", ":", "-.")[i % 3]
            axes.axhline(value, color=COLOURS[-1], ls=style, lw=1, label=name)
        axes.set_xticks(range(len(layers)), layers)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("layer")
        axes.set_ylabel(label)
        axes.grid(axis="y", color=GRID)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))

    return picture(draw, 9.0, 3.6)


def uses_table(
    layers: Sequence[str], found: Sequence[Near], uses: Sequence[Use]
) -> str:
    """Each use with the use that is nearest to it in each layer, and the cosine."""
    head = ["", *(["sense"] if any(u.sense for u in uses) else []), "use"]
    rows = []
    for i, use in enumerate(uses[:_LISTED]):
        before, word, after = (
            html.escape(each)
            for each in (use.text[: use.begin], use.word, use.text[use.end :])
        )
        cells = [str(i + 1), *([html.escape(use.sense)] if len(head) > 2 else [])]
        cells.append(f"<p class=use>{before}<b>{word}</b>{after}</p>")
        for each in found:
            other = int(each.nearest[i, 0])
            cosine = f"<small>{each.cosine[i, other]:.2f}</small>"
            cells.append(f"{other + 1} {cosine}")
        rows.append(cells)
    more = len(uses) - _LISTED
    rest = f"<p class=note>{more:,} more uses are in the JSON.</p>" if more > 0 else ""
    return table([*head, *(f"layer {name}" for name in layers)], rows) + rest


def rounded(values: Any) -> Any:
    """An array as nested lists for JSON."""
    return np.round(np.asarray(values, np.float64), 5).tolist()
