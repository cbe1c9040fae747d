"""A task's rows → the batches of a run, packed or padded; the loop reads them.

packed     several examples in a row, batches of a few shapes: packing.py
padded     an example a row, batches of examples of like length: order.py
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxlm.config import FinetuneConfig, Phase
from jaxlm.families import family_of
from jaxlm.objectives import Objective
from jaxlm.tasks.buckets import bucket_lengths, shuffled
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.packing import packed_batch, packing_of
from jaxlm.tasks.rows import TaskRows, batch_of
from jaxlm.tasks.task_layers import body_flops
from jaxlm.train.source import BatchStream

# Steps that take as long as to compile one shape more. On a CPU it is 10 to 15, but
# what is compiled is kept for the other seeds; elsewhere a step is much shorter.
_COMPILE, _COMPILE_ELSEWHERE = 5.0, 100.0
_SCORE = 500  # FLOP that take as long as a softmax and dropout of one score, on a CPU


def task_stream(
    config: FinetuneConfig,
    module: TaskModel,
    objective: Objective,
    rows: TaskRows,
    phase: Phase,
    stream: str,
) -> BatchStream:
    """The batches of a phase.

    Args:
        config: of the run.
        module: of `config.model`.
        objective: what is learnt from them.
        rows: of the training file.
        phase: the only one.
        stream: its name.
    """
    make = _packed if packs(config, module, rows) else _padded
    return make(config, module, objective, rows, phase, stream)


def packs(config: FinetuneConfig, module: TaskModel, rows: TaskRows) -> bool:
    """Whether several examples can share a row, and may."""
    return (
        config.task.pack
        and family_of(config.model).packs
        and module.pooling in ("pooler", "cls", "mean", "none")
        and module.body is None
        and not rows.several
    )


def _packed(
    config: FinetuneConfig,
    module: TaskModel,
    objective: Objective,
    rows: TaskRows,
    phase: Phase,
    stream: str,
) -> BatchStream:
    width, examples, count, mean = packing_of(
        rows.lengths,
        phase.batch,
        widest=config.model.max_length,
        cost=lambda width: _row_cost(config, module, width),
        seed=config.seed,
        stream=stream,
        steps=phase.until,
        further=_COMPILE if jax.default_backend() == "cpu" else _COMPILE_ELSEWHERE,
    )
    return BatchStream(
        objective,
        lambda step, local: packed_batch(rows, examples(step), width, local),
        lambda _: width,
        tokens=mean * width,
        flops=mean * _row_flops(config, module, width),
        dropout=_drops(config),
        rows=count,
    )


def _padded(
    config: FinetuneConfig,
    module: TaskModel,
    objective: Objective,
    rows: TaskRows,
    phase: Phase,
    stream: str,
) -> BatchStream:
    padded = bucket_lengths(rows.lengths, config.task.buckets, phase.length)
    pass_of = shuffled(padded, phase.batch, seed=config.seed, stream=stream)
    lengths = pass_of(0).lengths
    a_pass = len(lengths)

    def read(step: int, local: np.ndarray) -> Any:
        number, at = divmod(step, a_pass)
        each = pass_of(number)
        return batch_of(rows, each.rows[at][local], int(each.lengths[at]))

    count = phase.batch * max(1, rows.several)
    flops = [_row_flops(config, module, int(each)) for each in lengths]
    return BatchStream(
        objective,
        read,
        lambda rows: rows.mask.shape[-1],
        tokens=count * float(np.mean(lengths)),
        flops=count * float(np.mean(flops)),
        dropout=_drops(config),
    )


def _drops(config: FinetuneConfig) -> bool:
    return max(config.model.dropout, config.task.dropout) > 0


def _row_cost(config: FinetuneConfig, module: TaskModel, width: int) -> int:
    """In FLOP, with what scores cost beside their products: wide rows have more."""
    model: Any = config.model  # with heads: see `packs`
    scores = width**2 * model.num_heads * model.num_layers
    return _row_flops(config, module, width) + _SCORE * scores


def _row_flops(config: FinetuneConfig, module: TaskModel, length: int) -> int:
    """Of one row in training: the way back costs two forward passes, and nothing
    through a trunk that stays as it is."""
    model = config.model
    family = family_of(model)
    predictions = length if config.task.lm_weight else 0
    trunk = family.forward_flops(model, length, predictions)
    body = body_flops(module.body, family.width(model), length)
    return trunk * (1 if module.frozen else 3) + 3 * body
