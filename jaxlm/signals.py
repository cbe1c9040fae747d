"""The signals that end a command: Ctrl-C, a scheduler's SIGTERM, a lost terminal."""

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
    """After a SIGHUP: ignore its repetitions, of which the shell and the kernel send
    some, and lose what would be written to a terminal that has gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    for number in {1, 2, sys.stderr.fileno()}:
        if _gone(number):
            os.dup2(null, number)
    os.close(null)


def _gone(file: int) -> bool:
    poll = select.poll()
    poll.register(file, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
