"""SIGTERM and Ctrl-C stop a run after a step; a second signal ends it at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils


@contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """Step → whether a signal has asked to stop there.

    With several hosts all stop after the same step, wherever the signal arrived: jax's
    own handler of SIGTERM tells the others. It stays, and Ctrl-C is passed on to it.
    """
    asked, several = False, jax.process_count() > 1

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        if several:
            signal.raise_signal(signal.SIGTERM)

    def interrupted(step: int) -> bool:
        if several:
            return multihost_utils.reached_preemption_sync_point(step)
        return asked

    caught = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
