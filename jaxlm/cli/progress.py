"""What a person sees on standard error: notes, and how far the preparing of text is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxlm.text.prepare import Progress

_SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """Print a line on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def preparing() -> Iterator[Callable[[Progress], None]]:
    """A function that shows progress: by a bar on a terminal, by lines elsewhere."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, rich.TaskID] = {}

        def report(progress: Progress) -> None:
            name = progress.stage
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=progress.total)
            bar.update(tasks[name], completed=progress.done, total=progress.total)

        yield report


def _lines() -> Callable[[Progress], None]:
    began: dict[str, float] = {}
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        start = began.setdefault(progress.stage, now)
        if now - last < _SECONDS_BETWEEN_LINES or now == start:
            return
        last = now
        rate = progress.done / (now - start) / 1e6
        share = f" of {progress.total / 1e6:,.1f}" if progress.total else ""
        say(f"{progress.stage}: {progress.done / 1e6:,.1f}{share} MB, {rate:.1f} MB/s")

    return report
