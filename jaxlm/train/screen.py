"""Figures in → a progress bar on a terminal, plain lines anywhere else.

    step 120/900  loss 4.31  mlm 27.1%  nsp 63.0%  41,210 tokens/s  MFU 38.2%  ETA 12:09

The bar shows the newest figures and leaves no trail, for `metrics.jsonl` has them all;
where nobody watches, each line that is written there is printed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import IO, Any


class Screen:
    """Standard output, or another stream.

    Args:
        stream: a terminal or not.
    """

    def __init__(self, stream: IO[str] | None = None):
        self._stream = stream or sys.stdout
        self._bar: Any = None
        self._shown = -math.inf
        self._last = 0

    def begin(self, start: int, last: int) -> None:
        """Set up the bar, where the stream is a terminal that can move its cursor."""
        self._last = last
        if not self._stream.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(file=self._stream)
        if console.is_interactive:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}"),
                console=console,
                refresh_per_second=4,
                expand=True,
            )
            self._task = self._bar.add_task("", total=last, completed=start, figures="")
            self._bar.start()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def stale(self) -> bool:
        """Whether the bar could do with newer figures."""
        return self._bar is not None and time.monotonic() - self._shown > 0.5

    def show(
        self, record: Mapping[str, Any], seconds_left: float, *, line: bool = False
    ) -> None:
        """Put figures on the bar, or print them as a line that is due."""
        step = record["step"]
        figures = [f"loss {shown('loss', record['loss'])}"]
        figures += [
            f"{name.removesuffix('_accuracy').replace('_', ' ')} {shown(name, value)}"
            for name, value in record.items()
            if name.endswith("_accuracy") and not name.startswith("eval_")
        ]
        speed = shown("tokens_per_second", record["tokens_per_second"])
        figures += [f"{speed} tokens/s", f"MFU {shown('mfu', record['mfu'])}"]
        figures += [f"ETA {clock(seconds_left)}"]
        if record["skipped"]:
            figures += [f"skipped {record['skipped']}"]
        text = "  ".join(figures)
        if self._bar:
            self._bar.update(self._task, completed=step, figures=text)
            self._shown = time.monotonic()
        elif line:
            self.say(f"step {step}/{self._last}  {text}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def shown(name: str, value: float | None) -> str:
    """A figure as people read it: shares in per cent, counts whole."""
    if value is None or not math.isfinite(value):
        return "–"
    if name == "mfu" or name.endswith("accuracy"):
        return f"{value:.1%}"
    if name == "tokens_per_second" or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def clock(seconds: float) -> str:
    """3:07 or 1:02:05, days in front."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    days, hours = divmod(whole // 3600, 24)
    minutes = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    if days:
        return f"{days}d {hours}:{minutes}"
    return f"{hours}:{minutes}" if hours else minutes.removeprefix("0")
