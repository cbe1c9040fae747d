"""Figures → a progress bar on a terminal, plain lines elsewhere.

    step 120/900  loss 4.31  mlm 27.1%  goodput 97%  MFU 38%  41,210 tokens/s  ETA 9:07

The bar shows only the newest figures, since `metrics.jsonl` has all of them. Without a
terminal, each line of that file is printed.
"""

import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from jaxlm.metrics import Figure

_WIDTH = 60  # of the bar, at most: narrower terminals would cut a longer one in two
_SHARES = ("goodput", "MFU")


class Screen:
    """Shows the figures of a run on a stream or, without one, nothing."""

    def __init__(self, stream: Any, start: int, last: int):
        self._stream, self._last = stream, last
        self._live: Any = None
        self._shown = -math.inf
        self.below = "starting"  # text below the bar
        if stream and stream.isatty() and start < last:
            self._go_live(start)

    def _go_live(self, start: int) -> None:
        """Set up the bar, if the terminal can move its cursor."""
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        if not console.is_interactive:
            return
        self._step, self._right = start, list[str]()
        self._live = Live(
            get_renderable=self._lines, console=console, refresh_per_second=4
        )
        self._live.start()

    def _lines(self) -> Any:
        """The bar, with what there is room for on its right, and the text below it."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = min(self._live.console.width, _WIDTH) if self._live else _WIDTH
        count = f"{self._step}/{self._last}", "progress.download"  # its colour
        left = Text.assemble("step ", count)
        for i in range(len(self._right) + 1):
            right = "  ".join(self._right[i:])
            room = width - len(left) - 1 - len(right) - bool(right)
            if room >= 8:
                break
        bar = ProgressBar(self._last, self._step, width=max(room, 1))
        line = Table.grid(padding=(0, 1))
        more = [Text(right)] if right else []  # an empty one would take room
        line.add_row(left, bar, *more)
        below = Text(self.below, no_wrap=True, overflow="ellipsis")
        return Group(line, below)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is a bar."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        elif self._stream:
            print(text, file=self._stream, flush=True)

    def show(
        self, record: Mapping[str, Any], seconds_left: float, *, line: bool = False
    ) -> None:
        """Show figures on the bar; without a bar, print them if `line` is true.

        Between lines, the bar is updated at most twice a second.
        """
        if not line and (not self._live or time.monotonic() - self._shown <= 0.5):
            return
        rates = [f"{x} {shown(x.lower(), record[x.lower()])}" for x in _SHARES]
        quality = "  ".join([*trained(record), *rates])
        speed = shown("tokens_per_second", record["tokens_per_second"])
        right = [f"{speed} tokens/s", f"ETA {clock(seconds_left)}"]
        if self._live:
            self._step, self._right = record["step"], right
            self.below, self._shown = quality, time.monotonic()
        else:
            line_of = [f"step {record['step']}/{self._last}", quality, *right]
            self.say("  ".join(line_of))

    def evaluation(
        self, step: int, figures: Mapping[str, float], declared: Sequence[Figure]
    ) -> None:
        """Print held-out figures on one line; on a terminal, wrap between figures."""
        width = self._live.console.width if self._live else sys.maxsize
        lines = [f"step {step}  evaluation"]
        for each in evaluated(figures, declared):
            if len(lines[-1]) + 2 + len(each) > width:
                lines.append("")
            lines[-1] += f"  {each}"
        for line in lines:
            self.say(line)

    def close(self) -> None:
        """Stop updating the bar, and leave it on the screen."""
        if self._live:
            self._live.stop()
            self._live = None


def trained(record: Mapping[str, Any]) -> list[str]:
    """The training loss and accuracies of a line of `metrics.jsonl`, as strings."""
    out = [f"loss {shown('loss', record['loss'])}"]
    for name, value in record.items():
        if name.endswith("_accuracy") and not name.startswith("eval_"):
            title = name.removesuffix("_accuracy").replace("_", " ")
            out.append(f"{title} {shown(name, value)}")
    return out + [f"skipped {record['skipped']}"] * bool(record["skipped"])


def evaluated(
    figures: Mapping[str, float], declared: Sequence[Figure] = ()
) -> list[str]:
    """Held-out figures, each beside its baseline: `mlm loss 5.7 (unigram 6.3)`."""
    baselines: dict[str, str] = {}
    hidden: set[str] = set()
    for figure in declared:
        baselines |= figure.baselines
        hidden |= {*figure.baselines.values(), *figure.details}
    out = []
    for name, value in figures.items():
        other = baselines.get(name, "")
        if name not in hidden:
            out.append(f"{name.replace('_', ' ')} {shown(name, value)}")
        if other in figures:
            what = other.removeprefix(name.partition("_")[0] + "_").partition("_")[0]
            out[-1] += f" ({what} {shown(other, figures[other])})"
    return out


def shown(name: str, value: float | None) -> str:
    """A figure as readable text: shares in per cent, counts without decimals."""
    if value is None or not math.isfinite(value):
        return "–"
    if name in ("mfu", "goodput") or name.endswith(
        ("accuracy", "f1", "exact", "padding")
    ):
        return f"{value:.1%}"
    if name == "tokens_per_second" or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def clock(seconds: float) -> str:
    """Seconds as 3:07, 1:02:05 or 3d 2:00:00."""
    if not math.isfinite(seconds):
        return "–"
    text = str(timedelta(seconds=round(seconds)))  # 0:03:07, 1 day, 2:00:00
    return re.sub("^0:0?", "", re.sub(" days?, ", "d ", text))


def about(seconds: float) -> str:
    """Seconds as people say them: 40 s, 4 min, 2.5 hours, 12 days."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.1g}'):g} s"
