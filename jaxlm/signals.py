"""The signals that end a command: Ctrl-C, a scheduler's SIGTERM, a lost terminal."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def catch(handler: Callable[[int, Any], Any]) -> dict[int, Any]:
    """Handle these signals, but those that are ignored, as under nohup; returns the
    handlers that they had."""
    before: dict[int, Any] = {n: signal.getsignal(n) for n in ENDING}
    before = {n: each for n, each in before.items() if each != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def restore(handlers: dict[int, Any]) -> None:
    """Undo `catch`."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def leave_terminal() -> None:
    """After a SIGHUP: ignore further ones (the shell and the kernel each send it), and
    drop what is written to a terminal that has gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    files = {1, 2}
    with contextlib.suppress(OSError, AttributeError):  # a notebook's has no number
        files.add(sys.stderr.fileno())  # of several hosts, a copy of the terminal's
    for number in filter(_gone, files):
        os.dup2(null, number)
    os.close(null)


def _gone(file: int) -> bool:
    poll = select.poll()
    poll.register(file, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
