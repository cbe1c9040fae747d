"""When a run stops before its last step: after a signal, or out of patience."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from jaxlm.checkpoints import Checkpoints, check_best
from jaxlm.signals import catch, leave_terminal, restore
from jaxlm.train.ending import ending
from jaxlm.train.source import Run
from jaxlm.types import INTERRUPTED


class Best:
    """The best parameters on the dev file, kept in WORKDIR/best.

    A resumed run repeats its steps and evaluations bit for bit, so a stored best is
    never from the run's future. If figures are equal, the first stays.
    """

    def __init__(self, run: Run, kept: int | None):
        self._figure = run.source.best
        self._patience = int(run.source.patience * run.config.eval_every)  # steps
        self._checkpoints = Checkpoints(
            run.checkpoints.directory.parent / "best", keep=1, run=run.checkpoints.run
        )
        self._checkpoints.open()
        self._highest, self.step = -math.inf, None
        check_best(run.checkpoints.directory.parent, kept)
        if found := self._checkpoints.stored():
            self._highest, self.step = found.meta[self._figure], found.step

    def offer(self, step: int, params: Any, figures: Mapping[str, float]) -> None:
        """Save the parameters of a step durably if they are the best so far."""
        value = figures[self._figure]
        if math.isfinite(value) and value > self._highest:
            self._highest, self.step = value, step
            self._checkpoints.save(step, {"params": params}, dict(figures))
            self._checkpoints.wait()

    def out_of_patience(self, step: int) -> bool:
        """Whether too many evaluations have passed without a better one."""
        return self.step is not None and 0 < self._patience <= step - self.step


@contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """Catch the signals that end a command; yields a function step → whether to stop
    at that step.

    A second signal ends the process. Several hosts stop at the same step.
    """
    asked, job = False, ending()

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        if number == signal.SIGHUP:
            leave_terminal()
        elif asked:
            os._exit(128 + number)
        asked = True
        if job:
            job.tell(INTERRUPTED, "interrupted")

    before = catch(note)
    try:
        with job.loop() if job else nullcontext(lambda _: asked) as interrupted:
            yield interrupted
    finally:
        restore(before)
