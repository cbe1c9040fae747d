"""What Python gets back of a run: its model and its metrics."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from jaxlm.files import place
from jaxlm.tasks.finetuned import best_seed

M = TypeVar("M")


@dataclass(frozen=True)
class Run(Generic[M]):
    """A run directory after training."""

    workdir: str
    step: int
    interrupted: bool  # by a signal, after saving: the same call resumes
    sha256: str  # of the last state
    _open: Callable[[str], M] = field(repr=False)

    @cached_property
    def model(self) -> M:
        """The model of the newest checkpoint; of a task, of the best one."""
        return self._open(self.workdir)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, a dictionary each; of several seeds, the best
        one's. `pandas.DataFrame(run.metrics)` is a table of them."""
        file = place(best_seed(self.workdir)) / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]
