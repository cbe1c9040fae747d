"""A batch of examples of any lengths → few rows, several examples in each.

    batch      [CLS] a film [SEP] · [CLS] dull [SEP] · [CLS] a fine one [SEP]
    rows       [CLS] a film [SEP] [CLS] dull [SEP]
               [CLS] a fine one [SEP]
    segments    1 1 1 1 2 2 2
                1 1 1 1 1 0 0

Batches are drawn as if rows were padded: to put those of like length together instead
saves as much, but it changes what a batch is and the model that comes of it. Each
example attends to itself alone and counts positions from 0, so it has the loss that it
has in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxlm.tasks.order import NONE, shuffled
from jaxlm.tasks.rows import TaskBatch, TaskRows

_MULTIPLE = 8  # widths are rounded up to one


def row_width(lengths: np.ndarray, most: int) -> int:
    """Of packed rows: as long as the longest example, at most `most` tokens."""
    return min(-(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE, most)


def packed_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which examples share a row: the longest first, each where it fits first.

    Args:
        lengths: of the examples, at most `width`.
        width: of a row.

    Returns:
        Of each row, places in `lengths`.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def packed_order(
    lengths: np.ndarray, width: int, batch: int, *, seed: int, stream: str, steps: int
) -> tuple[Callable[[int], np.ndarray], int]:
    """Examples in an order drawn anew in each pass, and the rows that a batch needs.

    Args:
        lengths: int64 [n], of the examples.
        width: of a row.
        batch: examples of a batch.
        seed: the run's.
        stream: name of the phase.
        steps: of it.

    Returns:
        (step → int64 [batch], NONE where there is none; most rows of any step).
    """
    pass_of = shuffled(np.full(len(lengths), width), batch, seed=seed, stream=stream)
    a_pass = len(pass_of(0).rows)

    def examples(step: int) -> np.ndarray:
        number, at = divmod(step, a_pass)
        return pass_of(number).rows[at]

    def needed(index: np.ndarray) -> int:
        return len(packed_rows(lengths[index[index != NONE]].tolist(), width))

    return examples, max(needed(examples(step)) for step in range(steps))


def packed_batch(
    rows: TaskRows, index: np.ndarray, width: int, local: np.ndarray
) -> TaskBatch:
    """The rows `local` of a packed batch; rows beyond those needed are empty.

    What an example is to be told is at its first token: the logits of a class or a
    number are read there, those of tokens where the tokens are. The start and the end
    of a span are places of the row.

    Args:
        rows: of a file; one row an example.
        index: int64 [examples], NONE where there is none.
        width: W, of a row.
        local: int64 [R], numbers of rows.
    """
    index = index[index != NONE]
    shares = packed_rows([len(rows.tokens[i]) for i in index], width)
    shape = (len(local), width)
    tokens = np.full(shape, rows.pad, np.int32)
    types, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights, each_token = np.zeros(shape, np.float32), isinstance(rows.labels, list)
    one = np.asarray(rows.labels[0])
    span = not each_token and one.ndim == 1
    labels = np.zeros((*shape, 2) if span else shape, one.dtype)
    for row, number in enumerate(local):
        start = 0
        for n, place in enumerate(shares[number] if number < len(shares) else ()):
            i = index[place]
            end = start + len(rows.tokens[i])
            tokens[row, start:end] = rows.tokens[i]
            types[row, start + rows.second[i] : end] = 1
            segments[row, start:end] = n + 1
            if each_token:
                known = rows.labels[i] != NONE
                labels[row, start:end] = np.where(known, rows.labels[i], 0)
                weights[row, start:end] = known
            else:
                labels[row, start] = rows.labels[i] + (start if span else 0)
                weights[row, start] = 1
            start = end
    return TaskBatch(tokens, types, segments > 0, labels, weights, segments)
