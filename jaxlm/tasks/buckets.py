"""Rows of many lengths → batches of few shapes, in an order that is a pure function.

Pass p of the rows permutes them by (seed, p), puts each into the shortest bucket that
holds it, cuts each bucket into batches, and permutes the batches. What is left of a
bucket goes up into the next one, so only the last batch of a pass may be short:

    rows      7 3 9 1 5 0 8 2 …        lengths   16        32
    batches                             [7 9 1 0]  [3 5 8|2]  ← 2 is left of the shorter

How many batches of each shape a pass has depends on the lengths alone. So the first
pass compiles all that there is to compile, whatever is drawn later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.data.chance import hashes, permuted
from jaxlm.types import UserError

NONE = -1  # in the place of a row that a short batch lacks


class Pass(NamedTuple):
    """The batches of one pass."""

    rows: np.ndarray  # int64 [steps, batch], NONE where there is none
    lengths: np.ndarray  # int64 [steps]


def bucket_lengths(
    lengths: np.ndarray, buckets: Sequence[int], most: int
) -> np.ndarray:
    """The length that each row is padded to: its bucket's, `most` in the last one.

    Args:
        lengths: int [n], of the rows, at most `most`.
        buckets: rising.
        most: tokens in a row.
    """
    offered = np.array([*(b for b in buckets if b < most), most])
    if lengths.max(initial=0) > most:
        raise UserError(f"a row has {lengths.max()} tokens, --length is {most}")
    return offered[np.searchsorted(offered, lengths)]


def one_pass(padded: np.ndarray, batch: int, order: np.ndarray) -> Pass:
    """Batches of the rows taken in `order`, shortest bucket first.

    Args:
        padded: int64 [n], of `bucket_lengths`.
        batch: rows of a batch.
        order: int64 [n], a permutation.
    """
    rows, lengths = [], []
    left = np.zeros(0, np.int64)
    for length in np.unique(padded):
        mine = np.concatenate([left, order[padded[order] == length]])
        whole = len(mine) // batch * batch
        rows.append(mine[:whole].reshape(-1, batch))
        lengths += [length] * (whole // batch)
        left = mine[whole:]
    if len(left):
        short = np.full((1, batch), NONE, np.int64)
        short[0, : len(left)] = left
        rows.append(short)
        lengths.append(padded.max())
    return Pass(np.concatenate(rows), np.array(lengths, np.int64))


def shuffled(
    padded: np.ndarray, batch: int, *, seed: int, stream: str
) -> Callable[[int], Pass]:
    """Pass number → its batches; the last passes asked for are remembered.

    Args:
        padded: int64 [n], of `bucket_lengths`.
        batch: rows of a batch.
        seed: the run's.
        stream: name of the phase.
    """

    def permutation(name: str, count: int, number: int) -> np.ndarray:
        keys = hashes(seed, f"{stream}/{name}", np.full(count, number))
        return permuted(np.arange(count), count, keys)

    @functools.lru_cache(maxsize=2)
    def of(number: int) -> Pass:
        found = one_pass(padded, batch, permutation("order", len(padded), number))
        places = permutation("batches", len(found.rows), number)
        return Pass(found.rows[places], found.lengths[places])

    return of


def in_order(padded: np.ndarray, batch: int) -> Pass:
    """Each row once, for an evaluation."""
    return one_pass(padded, batch, np.arange(len(padded)))
