"""Token rows of a file → the batches of a run, packed or padded.

    padded    an example a row; batches of similar lengths, padded to a few lengths
    packed    several examples a row, batches drawn from all lengths

    batch      [CLS] a film [SEP] · [CLS] dull [SEP] · [CLS] a fine one [SEP]
    packed     [CLS] a film [SEP] [CLS] dull [SEP]      segments    1 1 1 1 2 2 2
               [CLS] a fine one [SEP]                               1 1 1 1 1 0 0

A packed example attends only to itself and has positions from 0, so its loss is the
same as in a separate row. Batches of similar lengths would save as much as packing, but
a model learns less from them. All batches are a pure function of (seed, phase, step).
Next: `model.py`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from jaxlm.keys import hashes, permuted
from jaxlm.tasks.task import NONE, TaskRows
from jaxlm.types import UserError

AnyArray = Array | np.ndarray  # of the host before a step, of the devices in it
_MULTIPLE = 8  # packed widths are multiples
_SAMPLE = 256  # batches that a width is chosen by
_SIZES = (0.1, 0.5, 0.9, 1.0)  # quantiles of the rows that packed batches need
_WORTH = 100  # steps that are worth the compilation of another number of rows


class TaskBatch(NamedTuple):
    """A batch of a task, as the model reads it."""

    tokens: Integer[AnyArray, "B ..."]  # ids [B, L] or [B, K, L], or words' characters
    token_types: Int[AnyArray, "B *K L"]
    mask: Bool[AnyArray, "B *K L"]  # True: a token, which may be attended to
    labels: Shaped[AnyArray, "B ..."]
    weights: Float[AnyArray, "B ..."]
    # The example of each token in a packed row, from 1; 0 is padding.
    segments: Int[AnyArray, "B L"] | None = None


def padded_batch(rows: TaskRows, index: np.ndarray, length: int) -> TaskBatch:
    """The examples `index`, int64 [B], as rows of `length`; index NONE has weight 0."""
    size, examples, there = max(1, rows.group), np.maximum(index, 0), index != NONE
    members = (examples[:, None] * size + np.arange(size)).reshape(-1, 1)
    batch, _ = _filled(rows, members.tolist(), length)
    tokens, types, mask = batch[:3]
    if rows.group:
        tokens, types, mask = (
            x.reshape(len(index), size, *x.shape[1:]) for x in (tokens, types, mask)
        )
    if isinstance(rows.labels, list):
        weights = batch.weights * there[:, None]
        return TaskBatch(tokens, types, mask, batch.labels, weights)
    labels = rows.labels[examples]
    if labels.ndim == 2:
        there, labels = there & (labels[:, 0] != NONE), np.maximum(labels, 0)
    return TaskBatch(tokens, types, mask, labels, there.astype(np.float32))


def packed_batch(
    rows: TaskRows, index: np.ndarray, width: int, local: np.ndarray
) -> TaskBatch:
    """The rows `local`, int64 [R], of a packed batch of the examples `index`.

    Unneeded rows are empty. The label of an example is at its first token, where its
    logits are read. Labels of tokens are at the tokens. The start and end of a span are
    positions in the row.
    """
    index = index[index != NONE]
    packed = packed_rows([len(rows.tokens[i]) for i in index], width)
    members = [index[packed[n]].tolist() if n < len(packed) else [] for n in local]
    batch, places = _filled(rows, members, width)
    if isinstance(rows.labels, list):
        return batch
    one, shape, weights = rows.labels[0], batch.mask.shape, batch.weights
    labels = np.zeros((*shape, *one.shape), one.dtype)
    for row, start, i in places:
        span = one.ndim == 1
        labels[row, start] = rows.labels[i] + (start if span else 0)
        weights[row, start] = not span or rows.labels[i][0] != NONE
    return batch._replace(labels=labels)


def _filled(
    rows: TaskRows, members: Sequence[Sequence[int]], length: int
) -> tuple[TaskBatch, list[tuple[int, int, int]]]:
    """(rows that hold these members end to end, with labels if tokens have labels;
    (row, position, member) for each member)."""
    one, shape, places = rows.tokens[0], (len(members), length), []
    tokens = np.full((*shape, *one.shape[1:]), rows.pad, one.dtype)
    types, segments, labels = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    for row, some in enumerate(members):
        start = 0
        for segment, i in enumerate(some, start=1):
            end = start + len(rows.tokens[i])
            tokens[row, start:end] = rows.tokens[i]
            types[row, start + rows.pair_start[i] : end] = 1
            segments[row, start:end] = segment
            if isinstance(rows.labels, list):
                labels[row, start:end] = np.maximum(rows.labels[i], 0)
                weights[row, start:end] = rows.labels[i] != NONE
            places.append((row, start, i))
            start = end
    return TaskBatch(tokens, types, segments > 0, labels, weights, segments), places


def packed_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """The examples of each row: longest first, each into the first row with room."""
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


class Plan(NamedTuple):
    """The batches of a file, in order."""

    index: np.ndarray  # int64 [steps, batch], NONE where there is no example
    lengths: np.ndarray  # int64 [steps], that rows are padded to


def bucket_lengths(
    lengths: np.ndarray, buckets: Sequence[int], most: int
) -> np.ndarray:
    """The length to pad each example to: the shortest bucket that holds it."""
    offered = np.array([*(b for b in buckets if b < most), most])
    if lengths.max(initial=0) > most:
        raise UserError(f"a row has {lengths.max()} tokens, --length is {most}")
    return offered[np.searchsorted(offered, lengths)]


def one_pass(padded: np.ndarray, batch: int, order: np.ndarray | None = None) -> Plan:
    """The batches of one pass, bucket by bucket, the shortest bucket first.

    The remainder of a bucket joins the next bucket. Only the last batch may be
    short, and the number of batches of each length depends only on the lengths.

        lengths   16                32
        batches   [7 9 1 0]         [3 5 8|2]      2 is the remainder of the shorter

    `padded` is from `bucket_lengths`, and `order` is a permutation of the examples.
    """
    order = np.arange(len(padded)) if order is None else order
    order = order[np.argsort(padded[order], kind="stable")]
    steps = -(-len(order) // batch)
    index = np.full(steps * batch, NONE, np.int64)
    index[: len(order)] = order
    last = np.minimum(np.arange(1, steps + 1) * batch, len(order)) - 1
    return Plan(index.reshape(steps, batch), padded[order[last]])


def shuffled(
    padded: np.ndarray, batch: int, steps: int, *, seed: int, stream: str
) -> Plan:
    """The batches of `steps` steps, pass after pass; all passes have the same lengths.

    The examples and the batches of a pass are permuted by (seed, stream, pass number);
    `stream` names the phase.
    """

    def permutation(name: str, count: int, number: int) -> np.ndarray:
        keys = hashes(seed, f"{stream}/{name}", np.full(count, number))
        return permuted(np.arange(count), count, keys)

    passes, done = [], 0
    while done < steps:
        number = len(passes)
        found = one_pass(padded, batch, permutation("order", len(padded), number))
        order = permutation("batches", len(found.index), number)[: steps - done]
        passes.append(Plan(found.index[order], found.lengths[order]))
        done += len(order)
    index, lengths = map(np.concatenate, zip(*passes, strict=True))
    return Plan(index, lengths)


def choose_packing(
    lengths: np.ndarray,
    batches: np.ndarray,
    *,
    widest: int,
    cost: Callable[[int], float],
) -> tuple[int, np.ndarray]:
    """(the cheapest row width, the number of rows in each batch).

    A row is one to two times as wide as the longest example. Batches are padded to one
    of a few numbers of rows, because each number is compiled; in a short run to a
    single one. The largest number comes first, so that a batch too large for memory
    fails at the start.

    Args:
        batches: int64 [steps, batch], the examples of each step.
        widest: most tokens of a row; at least the length of the longest example.
        cost: width → cost of a row, in any unit.
    """

    def rows_needed(width: int, steps: int) -> np.ndarray:
        each = (lengths[index[index != NONE]].tolist() for index in batches[:steps])
        return np.array([len(packed_rows(some, width)) for some in each])

    longest = -(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE
    widths = range(longest, min(2 * longest, widest) + 1, _MULTIPLE)
    width = min(
        widths or [widest],
        key=lambda width: rows_needed(width, _SAMPLE).mean() * cost(width),
    )
    needed = rows_needed(width, len(batches))
    sizes = np.quantile(needed, _SIZES, method="higher")
    counts = sizes[np.searchsorted(sizes, needed)]
    for size, larger in itertools.pairwise(np.unique(sizes)):
        if np.sum(alike := counts == size) < _WORTH:
            counts[alike] = larger
    counts[0] = sizes[-1]
    return width, counts
