"""In what tasks differ: how a file is read, what is learnt and what is said of it.

problem.read(path)  → examples   with the file and row of each
problem.encode      → rows       of tokens, with labels as numbers
problem.sums        → loss       of a micro-batch, as sums and counts
problem.figures     → quality    of the scores of all rows, on the host
problem.write       → answers    in the form of the task's own files
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.objectives.objective import Sums
from jaxlm.tasks.model import Join, Pooling
from jaxlm.tasks.rows import TaskRows

Scores = list[Any]  # of each row, float32 numpy arrays: [Y], or of its tokens [l, Y]


class Task(NamedTuple):
    """A task, with its classes known."""

    outputs: int  # Y
    pooling: Pooling  # "none": scores are of tokens
    read: Callable[[str, bool], Sequence[Any]]  # path, whether it has labels
    encode: Callable[[Sequence[Any], bool], TaskRows]  # examples, the same
    sums: Callable[[Any, Any], Sums]  # logits, TaskBatch; minimised: "task_loss"
    figures: Callable[[Sequence[Any], TaskRows, Scores], dict[str, float]]
    write: Callable[[Path, Sequence[Any], TaskRows, Scores], None]
    join: Join = ""  # how several rows are one example
