"""Parts of HTML → one self-contained page: no network, light and dark, prints well.

Pictures are inline SVG by matplotlib. Text in a picture stays text, which the browser
draws in its own fonts, so every script is legible and can be searched; ink, grid and
series colours are those of the page, light or dark.
"""

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

COLOURS = ("#2166ac", "#d6604d", "#1b7837", "#8856a7", "#b8860b", "#0097a7", "#555556")
MARKS = "osD^vPX"
INK, GRID = "#222223", "#eeeeef"  # colours of a picture that follow the page's
_DARK = ("#7fb2e5", "#f08a76", "#6cc486", "#bfa0dd", "#e0b84a", "#4fc6d4", "#aaaaab")

_THEME = "--ink: {}; --soft: {}; --line: {}; --mark: {}; --paper: {}; "
_LIGHT_THEME = _THEME.format("#222", "#555", "#ddd", "#fff1b8", "#fff")
_DARK_THEME = _THEME.format("#e4e4e4", "#aaa", "#444", "#5c4a00", "#17191c")


def _series(colours: Sequence[str]) -> str:
    return "".join(f"--series{i}: {each}; " for i, each in enumerate(colours))


_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT_THEME}{_series(COLOURS)}--grid: #eee }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {_DARK_THEME}{_series(_DARK)}--grid: #333 }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink);
       background: var(--paper); max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
       overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem; margin-bottom: .2rem }} h2 {{ font-size: 1.15rem }}
p.note {{ color: var(--soft) }} svg {{ width: 100%; height: auto; display: block }}
div.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 14px; overflow-wrap: normal }}
th, td {{ padding: .25rem .6rem; text-align: start; vertical-align: top;
         border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }}
p.use {{ min-width: 22em; margin: 0 }} b {{ background: var(--mark) }}
small {{ color: var(--soft) }}
@media (max-width: 600px) {{
  p.use {{ min-width: 9em }} td code, td.code {{ overflow-wrap: anywhere }} }}
@media print {{ body {{ max-width: none; margin: 0 }} div.wide {{ overflow: visible }}
  svg, tr {{ break-inside: avoid }} h2 {{ break-after: avoid }} }}
"""


def picture(
    draw: Callable[[Any], None], width: float, height: float, label: str = ""
) -> str:
    """What `draw(figure)` draws, as inline SVG; equal figures give equal bytes.

    `label` is said by a screen reader. Draw with `COLOURS`, `INK` and `GRID` for
    colours that follow the page's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    how = {"svg.fonttype": "none", "svg.hashsalt": "jaxlm", "font.size": 10}
    how |= {"font.family": "sans-serif", "axes.spines.top": False, "grid.color": GRID}
    how |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK)
    how |= dict.fromkeys(("xtick.color", "ytick.color"), INK)
    how |= dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none")
    none: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(how | {"axes.spines.right": False}):
        figure = Figure((width, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=none)
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    named = {INK: "var(--ink)", GRID: "var(--grid)"}
    named |= {each: f"var(--series{i})" for i, each in enumerate(COLOURS)}
    for colour, name in named.items():
        svg = svg.replace(colour, name)
    said = f'role="img" aria-label="{html.escape(label)}" ' if label else ""
    # On a narrow screen a picture is scrolled rather than made illegible.
    svg = f'<svg style="min-width: {width * 60:.0f}px" {said}{svg[5:]}'
    return f"<div class=wide>{svg}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    lines = ["".join(f"<th>{html.escape(each)}</th>" for each in head)]
    lines += ["".join(f"<td>{each}</td>" for each in row) for row in rows]
    body = "\n".join(f"<tr>{each}</tr>" for each in lines)
    return f"<div class=wide><table>{body}</table></div>"


def page(
    title: str,
    notes: Sequence[str],
    parts: Sequence[tuple[str, str]],
    *,
    style: str = "",
    script: str = "",
) -> str:
    """A page with a heading for each part, which is HTML; more CSS, and JavaScript."""
    said = "".join(f"<p class=note>{html.escape(each)}</p>" for each in notes)
    body = "".join(f"<h2>{html.escape(name)}</h2>{part}" for name, part in parts)
    name = html.escape(title)
    head = "<meta charset=utf-8><link rel=icon href='data:,'>"
    head += "<meta name=viewport content='width=device-width'>"
    head += f"<title>{name}</title><style>{_STYLE}{style}</style>"
    body = f"<h1>{name}</h1>{said}{body}"
    body += f"<script>{script}</script>" if script else ""
    return f"<!doctype html><html lang=en>{head}<body>{body}</body></html>\n"
