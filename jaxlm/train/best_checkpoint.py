"""The parameters that did best on the dev file, kept in WORKDIR/best.

A resumed run repeats its steps and evaluations bit for bit, so a stored best is never
from the run's future.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm.checkpoints import Checkpoints


class BestCheckpoint:
    """The best parameters of a run so far.

    Args:
        figure: name of the figure to be highest; of equal ones the first stays.
        patience: steps without a higher one that a run goes on; 0: all.
    """

    def __init__(self, workdir: str | Path, figure: str, *, patience: int):
        self._figure, self._patience = figure, patience
        self._checkpoints = Checkpoints(f"{workdir}/best", keep=1)
        self._checkpoints.open()
        self._highest, self.step = -math.inf, None
        for step in self._checkpoints.steps()[-1:]:
            meta = self._checkpoints.manifest(step).meta
            self._highest, self.step = meta.get(figure, -math.inf), step

    def offer(self, step: int, params: Any, figures: Mapping[str, float]) -> None:
        """Keep the parameters of a step if they are the best so far, durably."""
        value = figures[self._figure]
        if math.isfinite(value) and value > self._highest:
            self._highest, self.step = value, step
            self._checkpoints.save(step, {"params": params}, dict(figures))
            self._checkpoints.wait()

    def out_of_patience(self, step: int) -> bool:
        """Whether the best is too old at a step; the same again in a resumed run."""
        if self.step is None:
            return False
        return 0 < self._patience <= step - self.step
