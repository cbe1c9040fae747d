"""Examples → token rows → batches of a static shape. Next: `model.py`.

    [CLS] a text [SEP]                       types 0 0 0 0
    [CLS] a text [SEP] another one [SEP]     types 0 0 0 0 1 1 1

and as other families have it (`families/frame.py`).

Of a pair that is too long the longer text loses tokens, one by one, at its end
(google-research/bert run_classifier.py `_truncate_seq_pair`); of a GPT's each text has
half of the row but two (openai/finetune-transformer-lm train.py `max_len`).

An example may be several rows, a text with each alternative or two texts in both
orders. They follow one another, equally many of each example: where one has fewer, rows
without a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from jaxlm.families import Frame, Tokens
from jaxlm.tasks.buckets import NONE
from jaxlm.tasks.read.tables import Example

if TYPE_CHECKING:
    from jaxlm.types import AnyArray


class TaskRows(NamedTuple):
    """All rows of a file, on the host."""

    tokens: list[Tokens]  # of l tokens each, [CLS] and [SEP] included
    second: np.ndarray  # int32 [n]: where the second text begins; l without one
    pad: int  # what fills a batch
    # Of each row a class (int32), a number (float32), two places (int32 [n, 2]), or of
    # each of its tokens a class; of places and tokens NONE where there is nothing to
    # tell; 0 if unknown.
    labels: np.ndarray | list[np.ndarray]
    notes: tuple[str, ...] = ()  # for people
    places: Any = None  # how rows lie in their examples, as the task needs it
    several: int = 0  # K: rows of an example; 0: one, and batches have no such axis

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, of the longest where several are an example."""
        each = np.array([len(each) for each in self.tokens], np.int64)
        return each.reshape(-1, self.several).max(1) if self.several else each


class TaskBatch(NamedTuple):
    """What a task is learnt from."""

    tokens: Integer[AnyArray, "B ..."]  # ids [B, L] or [B, K, L], or words' characters
    token_types: Int[AnyArray, "B *K L"]
    mask: Bool[AnyArray, "B *K L"]  # True: a real token, may be attended to
    labels: Shaped[AnyArray, "B ..."]
    weights: Float[AnyArray, "B ..."]
    # Of packed rows the example of each token, from 1 on, 0 is padding: `packing.py`.
    segments: Int[AnyArray, "B L"] | None = None


def encode(examples: Sequence[Example], frame: Frame, length: int) -> TaskRows:
    """Rows of at most `length` tokens, without labels."""
    begin, between, end = frame.begin, frame.between, frame.end
    room, half = length - len(begin) - len(end), max(1, length // 2 - 2)
    first = frame.texts([e.text for e in examples])
    pairs = [e.pair for e in examples if e.pair is not None]
    second = frame.texts(pairs) if pairs else []
    if second and len(second) != len(first):
        raise ValueError("some examples are pairs and some are not")
    tokens, begins, cut = [], [], 0
    for i, a in enumerate(first):
        row = [begin, a[:room], end]
        if second:
            b = second[i]
            kept_a, kept_b = _kept(len(a), len(b), room - len(between))
            if frame.halves:
                kept_a, kept_b = min(len(a), half), min(len(b), half)
            cut += kept_a < len(a) or kept_b < len(b)
            row = [begin, a[:kept_a], between, b[:kept_b], end]
        cut += not second and len(a) > room
        tokens.append(np.concatenate(row))
        begins.append(sum(map(len, row[:3])))
    labels = np.zeros(len(tokens), np.int32)
    notes = (f"{cut:,} rows were cut to {length} tokens",) if cut else ()
    begin_at = np.array(begins, np.int32)
    return TaskRows(tokens, begin_at, frame.pad, labels, notes)


def encode_several(
    examples: Sequence[Sequence[Example]], frame: Frame, length: int, most: int
) -> TaskRows:
    """`most` rows of each example, without labels; of no token where it has fewer."""
    rows = encode([each for one in examples for each in one], frame, length)
    none = rows.tokens[0][:0]
    filled = iter(zip(rows.tokens, rows.second.tolist(), strict=True))
    tokens, second = [], []
    for one in examples:
        for i in range(most):
            row, begin = next(filled) if i < len(one) else (none, 0)
            tokens.append(row)
            second.append(begin)
    return rows._replace(
        tokens=tokens,
        second=np.array(second, np.int32),
        labels=np.zeros(len(examples), np.int32),
        several=most,
    )


def _kept(a: int, b: int, room: int) -> tuple[int, int]:
    """Tokens of both texts that fit: the longer one gives, at equal length the second.

    10 and 3 tokens in 8 places: 5 and 3; 9 and 9 in 7: 4 and 3.
    """
    if a + b <= room:
        return a, b
    low = min(a, b)
    if low <= room // 2:
        return (room - low, low) if a > b else (low, room - low)
    return room - room // 2, room // 2


def batch_of(rows: TaskRows, index: np.ndarray, length: int) -> TaskBatch:
    """The rows of these numbers, padded; NONE is a row of weight 0.

    Args:
        rows: of a file.
        index: int64 [B], of examples where they are several rows each.
        length: L, at least that of each row.
    """
    each = max(1, rows.several)
    places = np.maximum(index, 0)[:, None] * each + np.arange(each)
    shape, one = (places.size, length), rows.tokens[0]
    tokens = np.full((*shape, *one.shape[1:]), rows.pad, one.dtype)
    mask, types = np.zeros(shape, bool), np.zeros(shape, np.int32)
    for row, i in enumerate(places.flat):
        ids = rows.tokens[i]
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
        types[row, rows.second[i] : len(ids)] = 1
    if rows.several:
        tokens, types, mask = (
            x.reshape(*places.shape, *x.shape[1:]) for x in (tokens, types, mask)
        )
    if isinstance(rows.labels, np.ndarray):
        labels, there = rows.labels[np.maximum(index, 0)], index != NONE
        if labels.ndim == 2:
            there, labels = there & (labels[:, 0] != NONE), np.maximum(labels, 0)
        return TaskBatch(tokens, types, mask, labels, there.astype(np.float32))
    labels = np.full(shape, NONE, np.int32)
    for row, i in enumerate(index):
        if i != NONE:
            labels[row, : len(rows.labels[i])] = rows.labels[i]
    known = (labels != NONE).astype(np.float32)
    return TaskBatch(tokens, types, mask, np.maximum(labels, 0), known)
