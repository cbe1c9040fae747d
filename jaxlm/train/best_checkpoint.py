"""The parameters that did best on the dev file, kept beside a run's checkpoints.

They lie in WORKDIR/best. A run that was killed after an evaluation makes that step, or
the evaluation alone, again, to the bit, so what it finds here is never better than what
it will find out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm.checkpoints import Checkpoints, Restored


class BestCheckpoint:
    """Of a run that is evaluated.

    Args:
        workdir: run directory.
        figure: name of the figure to be highest; of equal ones the first stays.
        patience: steps without a higher one after which `stale` says so; 0: never.
    """

    def __init__(self, workdir: str | Path, figure: str, *, patience: int = 0):
        self._figure, self._patience = figure, patience
        self._checkpoints = Checkpoints(f"{workdir}/best", keep=1)
        self._checkpoints.open()
        steps = self._checkpoints.steps()
        self._highest, self.step = -math.inf, steps[-1] if steps else None
        if steps:
            meta = self._checkpoints.manifest(steps[-1]).meta
            self._highest = meta.get(figure, -math.inf)

    def offer(self, step: int, params: Any, figures: Mapping[str, float]) -> None:
        """Keep the parameters of a step if they are the best so far; they are on disk
        then, so that the log may say so."""
        value = figures[self._figure]
        if math.isfinite(value) and value > self._highest:
            self._highest, self.step = value, step
            self._checkpoints.save(step, {"params": params}, dict(figures))
            self._checkpoints.wait()

    def stale(self, step: int) -> bool:
        """Whether the best is older than the run's patience: a function of the steps
        alone, so that a run that ended by it ends again where it is taken up."""
        if not self._patience or self.step is None:
            return False
        return step - self.step >= self._patience

    def close(self) -> None:
        """Wait until it is on disk."""
        self._checkpoints.close()


def restore_best(workdir: str | Path, abstract: Any) -> Restored | None:
    """The best parameters; those of the newest checkpoint where no dev file was given;
    None where there is neither."""
    for directory in (f"{workdir}/best", workdir):
        found = Checkpoints(directory).restore(abstract, part="params/")
        if found:
            return found
    return None
