"""Token rows of a file → the batches of a run, packed or padded.

    padded    an example a row; batches of similar lengths, padded to a few lengths
    packed    several examples a row, batches drawn from all lengths

    batch      [CLS] a film [SEP] · [CLS] dull [SEP] · [CLS] a fine one [SEP]
    packed     [CLS] a film [SEP] [CLS] dull [SEP]      segments    1 1 1 1 2 2 2
               [CLS] a fine one [SEP]                               1 1 1 1 1 0 0

A packed example attends to itself alone and counts positions from 0, so its loss is
that of a row of its own. Batches of similar lengths would save as much as packing, but
a model learns less from them. All batches are a pure function of (seed, phase, step),
and all their shapes occur in the first pass. Next: `model.py`.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from jaxlm.config import FinetuneConfig, Phase
from jaxlm.families import family_of
from jaxlm.keys import hashes, permuted
from jaxlm.objectives.objective import Objective
from jaxlm.tasks.model import PACKED, TaskModel
from jaxlm.tasks.rows import NONE, TaskRows
from jaxlm.train.source import BatchStream
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.types import AnyArray

_MULTIPLE = 8  # packed widths are multiples
_WIDEST = 3  # longest examples in a packed row
_SAMPLE = 2**13  # examples that a width is chosen by
# Steps that take as long as compiling one more shape. On a CPU it is 10 to 15, but the
# other seeds find the shape compiled; on an accelerator a step is much shorter.
_COMPILE_STEPS = collections.defaultdict(lambda: 100.0, cpu=5.0)
_SCORE_FLOPS = 500  # FLOP that take as long as softmax and dropout of a score, on a CPU


class TaskBatch(NamedTuple):
    """A batch as the model reads it."""

    tokens: Integer[AnyArray, "B ..."]  # ids [B, L] or [B, K, L], or words' characters
    token_types: Int[AnyArray, "B *K L"]
    mask: Bool[AnyArray, "B *K L"]  # True: a token, which may be attended to
    labels: Shaped[AnyArray, "B ..."]
    weights: Float[AnyArray, "B ..."]
    # The example of each token in a packed row, from 1; 0 is padding.
    segments: Int[AnyArray, "B L"] | None = None


def padded_batch(rows: TaskRows, index: np.ndarray, length: int) -> TaskBatch:
    """The examples `index`, int64 [B], in rows of `length`; NONE has weight 0."""
    size = max(1, rows.group)
    places = (np.maximum(index, 0)[:, None] * size + np.arange(size)).reshape(-1)
    arrays = _Arrays.empty(rows, len(places), length)
    for row, i in enumerate(places.tolist()):
        arrays.put(row, 0, 1, rows, i)
    if rows.group:
        arrays = (x.reshape(len(index), size, *x.shape[1:]) for x in arrays)
    tokens, types, segments = arrays
    if isinstance(rows.labels, np.ndarray):
        labels, there = rows.labels[np.maximum(index, 0)], index != NONE
        if labels.ndim == 2:
            there, labels = there & (labels[:, 0] != NONE), np.maximum(labels, 0)
        weights = there.astype(np.float32)
    else:
        labels = np.full(types.shape, NONE, np.int32)
        for row, i in enumerate(index):
            if i != NONE:
                labels[row, : len(rows.labels[i])] = rows.labels[i]
        weights = (labels != NONE).astype(np.float32)
        labels = np.maximum(labels, 0)
    return TaskBatch(tokens, types, segments > 0, labels, weights)


def packed_batch(
    rows: TaskRows, index: np.ndarray, width: int, local: np.ndarray
) -> TaskBatch:
    """The rows `local`, int64 [R], of a packed batch of the examples `index`.

    Rows beyond those needed are empty. The label of an example lies at its first token,
    where its logits are read; labels of tokens lie at the tokens. Start and end of a
    span are positions in the row.
    """
    index = index[index != NONE]
    members = packed_rows([len(rows.tokens[i]) for i in index], width)
    arrays = _Arrays.empty(rows, len(local), width)
    tokens, types, segments = arrays
    weights, by_token = np.zeros(types.shape, np.float32), isinstance(rows.labels, list)
    one = np.asarray(rows.labels[0])
    span = not by_token and one.ndim == 1
    labels = np.zeros((*types.shape, 2) if span else types.shape, one.dtype)
    for row, number in enumerate(local):
        start = 0
        for n, place in enumerate(members[number] if number < len(members) else ()):
            i = int(index[place])
            end = arrays.put(row, start, n + 1, rows, i)
            if by_token:
                known = rows.labels[i] != NONE
                labels[row, start:end] = np.where(known, rows.labels[i], 0)
                weights[row, start:end] = known
            else:
                labels[row, start] = rows.labels[i] + (start if span else 0)
                weights[row, start] = not span or rows.labels[i][0] != NONE
            start = end
    return TaskBatch(tokens, types, segments > 0, labels, weights, segments)


class _Arrays(NamedTuple):
    """Token rows of a batch while they are filled."""

    tokens: np.ndarray
    types: np.ndarray
    segments: np.ndarray  # 0: padding

    @staticmethod
    def empty(rows: TaskRows, count: int, length: int) -> _Arrays:
        one, shape = rows.tokens[0], (count, length)
        tokens = np.full((*shape, *one.shape[1:]), rows.pad, one.dtype)
        return _Arrays(tokens, np.zeros(shape, np.int32), np.zeros(shape, np.int32))

    def put(self, row: int, start: int, segment: int, rows: TaskRows, i: int) -> int:
        """Put row `i` of a file into a row of the batch, and return its end there."""
        end = start + len(rows.tokens[i])
        self.tokens[row, start:end] = rows.tokens[i]
        self.types[row, start + rows.pair_start[i] : end] = 1
        self.segments[row, start:end] = segment
        return end


class Pass(NamedTuple):
    """The batches of one pass over a file."""

    index: np.ndarray  # int64 [steps, batch], NONE where there is no example
    lengths: np.ndarray  # int64 [steps], that rows are padded to


def bucket_lengths(
    lengths: np.ndarray, buckets: Sequence[int], most: int
) -> np.ndarray:
    """The length that each example is padded to, the shortest bucket that holds it."""
    offered = np.array([*(b for b in buckets if b < most), most])
    if lengths.max(initial=0) > most:
        raise UserError(f"a row has {lengths.max()} tokens, --length is {most}")
    return offered[np.searchsorted(offered, lengths)]


def one_pass(padded: np.ndarray, batch: int, order: np.ndarray | None = None) -> Pass:
    """Batches of one bucket after the other, the shortest first.

    The rest of a bucket joins the next one, so only the last batch may be short, and
    the number of batches of each length depends on the lengths alone.

        lengths   16                32
        batches   [7 9 1 0]         [3 5 8|2]      2 was left of the shorter ones

    Args:
        padded: of `bucket_lengths`.
        order: a permutation of the examples; None: as in the file.
    """
    order = np.arange(len(padded)) if order is None else order
    index, lengths = [], []
    rest = np.zeros(0, np.int64)
    for length in np.unique(padded):
        bucket = np.concatenate([rest, order[padded[order] == length]])
        whole = len(bucket) // batch * batch
        index.append(bucket[:whole].reshape(-1, batch))
        lengths += [length] * (whole // batch)
        rest = bucket[whole:]
    if len(rest):
        short = np.full((1, batch), NONE, np.int64)
        short[0, : len(rest)] = rest
        index.append(short)
        lengths.append(padded.max())
    return Pass(np.concatenate(index), np.array(lengths, np.int64))


def shuffled(
    padded: np.ndarray, batch: int, *, seed: int, stream: str
) -> Callable[[int], Pass]:
    """Number of a pass → its batches.

    Examples and batches are permuted by (seed, stream, pass); `stream` names a phase.
    """

    def permutation(name: str, count: int, number: int) -> np.ndarray:
        keys = hashes(seed, f"{stream}/{name}", np.full(count, number))
        return permuted(np.arange(count), count, keys)

    @functools.lru_cache(maxsize=2)
    def pass_of(number: int) -> Pass:
        found = one_pass(padded, batch, permutation("order", len(padded), number))
        order = permutation("batches", len(found.index), number)
        return Pass(found.index[order], found.lengths[order])

    return pass_of


class Packing(NamedTuple):
    """How the batches of a phase lie in packed rows."""

    width: int  # of all rows
    examples: Callable[[int], np.ndarray]  # step → int64 [batch], NONE for none
    rows: Callable[[int], int]  # step → R
    mean: float  # of R


def packed_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """The examples of each row: the longest first, each in the first row with room."""
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


def choose_packing(
    lengths: np.ndarray,
    batch: int,
    *,
    widest: int,
    cost: Callable[[int], float],
    seed: int,
    stream: str,
    steps: int,
    compile_steps: float,
) -> Packing:
    """The cheapest width of rows, and few numbers of rows that batches are padded to.

    A row holds up to three of the longest examples. Batches that need fewer rows are
    not padded to the largest one, and all sizes occur in the first pass.

    Args:
        widest: most tokens of a row, at least those of the longest example.
        cost: width → cost of a row, in any unit.
        compile_steps: steps that take as long as compiling one more size.
    """
    longest = int(lengths.max())
    pass_of = shuffled(np.full(len(lengths), longest), batch, seed=seed, stream=stream)
    a_pass = len(pass_of(0).index)

    def examples(step: int) -> np.ndarray:
        number, at = divmod(step, a_pass)
        return pass_of(number).index[at]

    def rows_needed(width: int, steps: int) -> np.ndarray:
        batches = (examples(step) for step in range(steps))
        each = (lengths[index[index != NONE]].tolist() for index in batches)
        return np.array([len(packed_rows(some, width)) for some in each])

    def sample_cost(width: int) -> float:
        needed = rows_needed(width, min(steps, -(-_SAMPLE // batch)))
        return few_sizes(needed, compile_steps * len(needed) / steps)[1] * cost(width)

    first = math.ceil(longest / _MULTIPLE) * _MULTIPLE
    wider = range(first + _MULTIPLE, min(_WIDEST * first, widest) + 1, _MULTIPLE)
    width = min([min(first, widest), *wider], key=sample_cost)
    needed = rows_needed(width, steps)
    rows = _rounded_up(needed, few_sizes(needed, compile_steps)[0])
    rows[0] = rows.max()
    rows = _rounded_up(rows, np.unique(rows[:a_pass]))
    return Packing(width, examples, lambda step: int(rows[step]), float(rows.mean()))


def few_sizes(needed: np.ndarray, compile_steps: float) -> tuple[np.ndarray, float]:
    """Choose the numbers of rows that minimise padding plus compile cost.

    Batches are rounded up to one of them. 3 4 4 4 5 4 9 with 1: 5 and 9.

    Args:
        needed: int [n], rows that each batch needs.
        compile_steps: steps that cost as much as one more size.

    Returns:
        int [k], rising; and the cost of a batch in rows, with its share of compiling.
    """
    values, counts = np.unique(needed, return_counts=True)
    price = compile_steps * needed.mean()
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # for the least j values
    for j, size in enumerate(values, start=1):
        ways = (
            (best[i][0] + price + size * counts[i:j].sum(), (*best[i][1], int(size)))
            for i in range(j)
        )
        best.append(min(ways))
    total, sizes = best[-1]
    return np.array(sizes), float(total / len(needed))


def _rounded_up(needed: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sizes[np.searchsorted(sizes, needed)]


def task_stream(
    config: FinetuneConfig,
    module: TaskModel,
    objective: Objective,
    rows: TaskRows,
    phase: Phase,
    stream: str,
) -> BatchStream:
    """The batches of a phase named `stream`, packed where model and task allow it."""
    dropout = max(config.model.dropout, config.task.dropout) > 0
    lengths = rows.lengths
    if packs(config, module, rows):
        width, examples, count, mean = choose_packing(
            lengths,
            phase.batch,
            widest=config.model.max_length,
            cost=lambda width: _row_cost(config, module, width),
            seed=config.seed,
            stream=stream,
            steps=phase.until,
            compile_steps=_COMPILE_STEPS[jax.default_backend()],
        )
        return BatchStream(
            objective,
            lambda step, local: packed_batch(rows, examples(step), width, local),
            lambda _: width,
            tokens=mean * width,
            flops=mean * _row_flops(config, module, width),
            dropout=dropout,
            rows=count,
        )
    padded = bucket_lengths(lengths, config.task.buckets, phase.length)
    pass_of = shuffled(padded, phase.batch, seed=config.seed, stream=stream)
    a_pass = pass_of(0).lengths

    def read(step: int, local: np.ndarray) -> TaskBatch:
        number, at = divmod(step, len(a_pass))
        each = pass_of(number)
        return padded_batch(rows, each.index[at][local], int(each.lengths[at]))

    row_flops = [_row_flops(config, module, int(length)) for length in a_pass]
    batch_rows = phase.batch * max(1, rows.group)
    return BatchStream(
        objective,
        read,
        lambda batch: batch.mask.shape[-1],
        tokens=batch_rows * float(np.mean(a_pass)),
        flops=batch_rows * float(np.mean(row_flops)),
        dropout=dropout,
    )


def packs(config: FinetuneConfig, module: TaskModel, rows: TaskRows) -> bool:
    """Whether several examples may share a row."""
    return (
        config.task.pack
        and family_of(config.model).packs
        and module.pooling in PACKED
        and module.body is None
        and not rows.group
    )


def _row_flops(config: FinetuneConfig, module: TaskModel, length: int) -> int:
    """FLOP of a row in training: backward costs twice as much as forward."""
    family, model = family_of(config.model), config.model
    predictions = length if config.task.lm_weight > 0 else 0
    encoder = family.forward_flops(model, length, predictions)
    body = module.body.flops(family.width(model), length) if module.body else 0
    return encoder * (1 if module.frozen else 3) + 3 * body


def _row_cost(config: FinetuneConfig, module: TaskModel, width: int) -> int:
    """FLOP of a packed row, with what softmax and dropout of its scores cost."""
    model: Any = config.model
    scores = width**2 * model.num_heads * model.num_layers
    return _row_flops(config, module, width) + _SCORE_FLOPS * scores
