"""A batch of examples of any lengths → few rows, several examples in each.

    batch      [CLS] a film [SEP] · [CLS] dull [SEP] · [CLS] a fine one [SEP]
    rows       [CLS] a film [SEP] [CLS] dull [SEP]
               [CLS] a fine one [SEP]
    segments    1 1 1 1 2 2 2
                1 1 1 1 1 0 0

Batches are drawn freely: to put examples of like length together, or short and long
ones alike, saves as much, but changes what a batch is and the model that comes of it.
Each example attends to itself alone and counts positions from 0, so it has the loss
that it has in a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.tasks.buckets import NONE, shuffled
from jaxlm.tasks.rows import TaskBatch, TaskRows

_MULTIPLE = 8  # widths are rounded up to one
_WIDEST = 3  # longest examples in a row
_SAMPLE = 2**13  # examples that a width is judged by


class Packing(NamedTuple):
    """How the batches of a phase lie in rows."""

    width: int  # W, of all rows
    examples: Callable[[int], np.ndarray]  # step → int64 [batch], NONE for none
    rows: Callable[[int], int]  # step → R
    mean: float  # of R


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


def packing_of(
    lengths: np.ndarray,
    batch: int,
    *,
    widest: int,
    cost: Callable[[int], float],
    seed: int,
    stream: str,
    steps: int,
    further: float,
) -> Packing:
    """Examples in an order drawn anew in each pass, in rows that cost the least.

    A row holds one to three examples of the longest kind, or what fits beside fewer.
    Batches need more rows or fewer: they come in a few sizes, so that a rare large one
    does not make all of them large. The first pass has all sizes that there are.

    Args:
        lengths: int64 [n], of the examples.
        batch: examples of a batch.
        widest: most tokens of a row, at least those of the longest example.
        cost: width → of a row, in any unit.
        seed: the run's.
        stream: name of the phase.
        steps: of it.
        further: steps that take as long as to compile one size more.
    """
    one = np.full(len(lengths), int(lengths.max()))
    pass_of = shuffled(one, batch, seed=seed, stream=stream)
    a_pass = len(pass_of(0).rows)

    def examples(step: int) -> np.ndarray:
        number, at = divmod(step, a_pass)
        return pass_of(number).rows[at]

    def needs(width: int, steps: int) -> np.ndarray:
        batches = (examples(step) for step in range(steps))
        each = (lengths[index[index != NONE]].tolist() for index in batches)
        return np.array([len(packed_rows(some, width)) for some in each])

    def sample_cost(width: int) -> float:
        needed = needs(width, min(steps, -(-_SAMPLE // batch)))
        return few_sizes(needed, further * len(needed) / steps)[1] * cost(width)

    width = min(_widths(int(lengths.max()), widest), key=sample_cost)
    needed = needs(width, steps)
    sized = _rounded(needed, few_sizes(needed, further)[0])
    sized[0] = sized.max()
    sized = _rounded(sized, np.unique(sized[:a_pass]))
    return Packing(width, examples, lambda step: int(sized[step]), float(sized.mean()))


def _widths(longest: int, widest: int) -> list[int]:
    first = math.ceil(longest / _MULTIPLE) * _MULTIPLE
    last = min(_WIDEST * first, widest)
    return [min(first, widest), *range(first + _MULTIPLE, last + 1, _MULTIPLE)]


def few_sizes(needed: np.ndarray, further: float) -> tuple[np.ndarray, float]:
    """Numbers of rows, rising, that batches are rounded up to, and what they cost.

    They are those with the fewest rows in all, where each size costs as many as
    `further` batches of the mean. 3 4 4 4 5 4 9 and 1: 5 and 9.

    Args:
        needed: int [n], rows that each batch needs.
        further: see above.

    Returns:
        int [k] and, of a batch in the mean, rows with their share of all sizes.
    """
    values, counts = np.unique(needed, return_counts=True)
    price = further * needed.mean()
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # of the least j values
    for j, size in enumerate(values, start=1):
        ways = (
            (best[i][0] + price + size * counts[i:j].sum(), (*best[i][1], int(size)))
            for i in range(j)
        )
        best.append(min(ways))
    total, sizes = best[-1]
    return np.array(sizes), float(total / len(needed))


def _rounded(needed: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sizes[np.searchsorted(sizes, needed)]


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
                weights[row, start] = not span or rows.labels[i][0] != NONE
            start = end
    return TaskBatch(tokens, types, segments > 0, labels, weights, segments)
