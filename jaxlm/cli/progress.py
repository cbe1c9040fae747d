"""What a person sees while text is prepared: a bar on a terminal, plain lines else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxlm.cli.arguments import say

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def preparing() -> Iterator[Callable]:
    """A function to report `text.prepare.Progress` to."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Callable]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(progress) -> None:
            name = progress.stage
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=progress.total)
            bar.update(tasks[name], completed=progress.done, total=progress.total)

        yield report


def _lines() -> Callable:
    began: dict[str, float] = {}
    last = time.monotonic()

    def report(progress) -> None:
        nonlocal last
        now = time.monotonic()
        start = began.setdefault(progress.stage, now)
        if now - last < _SECONDS_BETWEEN_LINES or now == start:
            return
        last = now
        rate = progress.done / max(now - start, 1e-9) / 1e6
        share = f" of {progress.total / 1e6:,.1f}" if progress.total else ""
        say(f"{progress.stage}: {progress.done / 1e6:,.1f}{share} MB, {rate:.1f} MB/s")

    return report
