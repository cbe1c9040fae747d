"""Vectors and figures by layer → the pictures and tables of the probes' pages."""

import html
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxlm.page import COLOURS, GRID, MARKS, picture, table
from jaxlm.probe.senses import Map, Near, Use

_COLUMNS = 4
_LISTED = 60  # uses in the table of a page


class Figures(NamedTuple):
    """A table of figures; a column "F1 ±" has the deviations of the column "F1"."""

    title: str
    what: str  # what each name is: "layer"
    names: Sequence[str]
    columns: Mapping[str, Sequence[float]]
    drawn: Sequence[str] = ()  # columns
    levels: Mapping[str, float] = MappingProxyType({})  # of all names, drawn dashed
    fixed: bool = False  # the same at every step of a run
    steps: Sequence[int] = ()  # of training, if the names are steps

    def cells(self) -> list[list[str]]:
        """The rows as text, with their names."""
        return [
            [name, *("–" if v != v else f"{v:.3f}" for v in values)]
            for name, *values in zip(self.names, *self.columns.values(), strict=True)
        ]

    def json(self) -> dict[str, Any]:
        """The columns as lists, with the names and the levels."""
        columns = {
            name: [float(v) if v == v else None for v in column]
            for name, column in self.columns.items()
        }
        return {self.what or "figure": list(self.names), **columns, **self.levels}

    def html(self) -> str:
        """The drawn columns as curves over the names or steps; the table."""
        cells = [list(map(html.escape, row)) for row in self.cells()]
        below = table([self.what, *self.columns], cells)
        return self._picture() + below if self.drawn else below

    def _picture(self) -> str:
        def draw(figure: Any) -> None:
            axes, where = figure.subplots(), self.steps or range(len(self.names))
            for i, name in enumerate(n for n in self.drawn if n in self.columns):
                how: Any = {"color": COLOURS[i % 7], "marker": MARKS[i % 7], "ms": 4}
                error = self.columns.get(f"{name} ±")
                axes.errorbar(where, self.columns[name], error, label=name, **how)
            for name, value in self.levels.items():
                axes.axhline(value, color=COLOURS[-1], ls="--", lw=1, label=name)
            if self.steps:
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xlim(-0.2, 1.4 * max(self.steps))
            else:
                axes.set_xticks(where, self.names)
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
            axes.set_xlabel(self.what)
            axes.set_ylabel(self.title)
            axes.grid(axis="y", color=GRID)
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
            axes.legend(frameon=False, fontsize=9, **beside)

        return picture(draw, 9.0, 3.6, self.title)


def over_steps(steps: Sequence[int], each: Sequence[Figures]) -> Figures:
    """The main column of one table at several steps: a row a step, a column a name."""
    first, columns = each[0], {}
    drawn = [f"{first.what} {name}".strip() for name in first.names]
    main = [*first.drawn, *first.columns][0]
    for i, name in enumerate(drawn):
        for end in ("", " ±"):
            if main + end in first.columns:
                values = [float(table.columns[main + end][i]) for table in each]
                columns[name + end] = values
    return by_step(first.title, steps, columns, drawn, first.levels)


def by_step(
    title: str, steps: Sequence[int], columns: Mapping[str, Any], *more: Any
) -> Figures:
    """Figures at steps of training; `more` are further fields."""
    names = [f"{step:,}" for step in steps]
    return Figures(title, "step", names, columns, *more)._replace(steps=steps)


def maps(layers: Sequence[str], found: Sequence[Map], senses: Sequence[str]) -> str:
    """A map of uses for each layer; uses are numbered if they are few."""
    kinds = list(dict.fromkeys(senses))
    numbered = len(senses) <= 40

    def draw(figure: Any) -> None:
        every = panels(figure, len(layers))
        for axes, name, each in zip(every, layers, found, strict=True):
            axes.set_title(f"layer {name}", fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.margins(0.14)
            for i, kind in enumerate(kinds):
                here = each.places[[sense == kind for sense in senses]]
                how = {"color": COLOURS[i % 7], "marker": MARKS[i % 7]}
                size = 26 if numbered else 8
                axes.scatter(*here.T, s=size, label=kind, linewidths=0, **how)
            at = {"textcoords": "offset points", "fontsize": 9}
            same = not each.places.any()  # the word alone decides
            for i, place in enumerate(each.places if numbered and not same else ()):
                axes.annotate(str(i + 1), place, (4, 3), **at)
            share = "all are equal" if same else f"{each.shown:.0%} of the variance"
            axes.set_xlabel(share, fontsize=8)
        if any(kinds):
            handles, labels = figure.axes[0].get_legend_handles_labels()
            place = {"loc": "outside lower center", "ncols": min(6, len(kinds))}
            figure.legend(handles, labels, frameon=False, **place)

    return picture(draw, *panels_size(len(layers), 2.7, 2.7))


def panels(figure: Any, count: int, **how: Any) -> list[Any]:
    """The axes of `count` pictures in rows of four."""
    columns = min(_COLUMNS, count)
    rows = -(-count // _COLUMNS)
    every = list(figure.subplots(rows, columns, squeeze=False, **how).flat)
    for axes in every[count:]:
        axes.set_axis_off()
    return every[:count]


def panels_size(count: int, width: float, height: float) -> tuple[float, float]:
    """The size of a figure with `count` panels of this size."""
    columns = min(_COLUMNS, count)
    return width * columns + 0.4, height * -(-count // _COLUMNS) + 0.4


def uses_table(
    layers: Sequence[str], found: Sequence[Near], uses: Sequence[Use]
) -> str:
    """Each use with the use that is nearest to it in each layer, and the cosine."""
    head = ["", *(["sense"] if any(u.sense for u in uses) else []), "use"]
    rows = []
    for i, use in enumerate(uses[:_LISTED]):
        parts = use.text[: use.begin], use.word, use.text[use.end :]
        before, word, after = map(html.escape, parts)
        cells = [str(i + 1), *([html.escape(use.sense)] if len(head) > 2 else [])]
        cells.append(f"<p class=use>{before}<b>{word}</b>{after}</p>")
        for each in found:
            other = int(each.nearest[i, 0])
            cells.append(f"{other + 1} <small>{each.cosine[i, other]:.2f}</small>")
        rows.append(cells)
    more = len(uses) - _LISTED
    rest = f"<p class=note>{more:,} more uses are in the JSON.</p>" if more > 0 else ""
    return table([*head, *(f"layer {name}" for name in layers)], rows) + rest


def rounded(values: Any) -> Any:
    """An array as nested lists for JSON, where NaN is null."""
    values = np.asarray(values, np.float64)
    return np.where(np.isnan(values), np.array(None), np.round(values, 5)).tolist()
