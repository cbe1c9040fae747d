"""Examples → token rows → batches of a static shape. Next: `model.py`.

    [CLS] a text [SEP]                       types 0 0 0 0
    [CLS] a text [SEP] another one [SEP]     types 0 0 0 0 1 1 1

and as other families have it (`spelling.py`).

Of a pair that is too long the longer text loses tokens, one by one, at its end
(google-research/bert run_classifier.py `_truncate_seq_pair`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from jaxlm.tasks.order import NONE
from jaxlm.tasks.spelling import Spelling, Tokens
from jaxlm.tasks.tables import Example

if TYPE_CHECKING:
    from jaxlm.types import AnyArray


class TaskRows(NamedTuple):
    """All rows of a file, on the host."""

    tokens: list[Tokens]  # of l tokens each, [CLS] and [SEP] included
    second: np.ndarray  # int32 [n]: where the second text begins; l without one
    pad: int  # what fills a batch
    # Of each row a class (int32), a number (float32), two places (int32 [n, 2]), or of
    # each of its tokens a class, NONE where there is nothing to tell; 0 if unknown.
    labels: np.ndarray | list[np.ndarray]
    notes: tuple[str, ...] = ()  # for people
    places: Any = None  # how rows lie in their examples, as the task needs it

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.array([len(each) for each in self.tokens], np.int64)


class TaskBatch(NamedTuple):
    """What a task is learnt from."""

    tokens: Integer[AnyArray, "B L ..."]  # ids, or the characters of each word
    token_types: Int[AnyArray, "B L"]
    mask: Bool[AnyArray, "B L"]  # True: a real token, may be attended to
    labels: Shaped[AnyArray, "B ..."]
    weights: Float[AnyArray, "B ..."]


def encode(examples: Sequence[Example], spelling: Spelling, length: int) -> TaskRows:
    """Rows of at most `length` tokens, without labels."""
    begin, between, end = spelling.begin, spelling.between, spelling.end
    room = length - len(begin) - len(end)
    first = spelling.texts([e.text for e in examples])
    pairs = [e.pair for e in examples if e.pair is not None]
    second = spelling.texts(pairs) if pairs else []
    if second and len(second) != len(first):
        raise ValueError("some examples are pairs and some are not")
    tokens, begins, cut = [], [], 0
    for i, a in enumerate(first):
        row = [begin, a[:room], end]
        if second:
            b = second[i]
            kept_a, kept_b = _kept(len(a), len(b), room - len(between))
            cut += kept_a < len(a) or kept_b < len(b)
            row = [begin, a[:kept_a], between, b[:kept_b], end]
        cut += not second and len(a) > room
        tokens.append(np.concatenate(row))
        begins.append(sum(map(len, row[:3])))
    labels = np.zeros(len(tokens), np.int32)
    notes = (f"{cut:,} rows were cut to {length} tokens",) if cut else ()
    begin_at = np.array(begins, np.int32)
    return TaskRows(tokens, begin_at, spelling.pad, labels, notes)


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
        index: int64 [B].
        length: L, at least that of each row.
    """
    shape = len(index), length
    one = rows.tokens[0]
    tokens = np.full((*shape, *one.shape[1:]), rows.pad, one.dtype)
    mask, types = np.zeros(shape, bool), np.zeros(shape, np.int32)
    for row, i in enumerate(index):
        ids = rows.tokens[max(i, 0)]
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
        types[row, rows.second[max(i, 0)] : len(ids)] = 1
    weights = (index != NONE).astype(np.float32)
    if isinstance(rows.labels, np.ndarray):
        return TaskBatch(
            tokens, types, mask, rows.labels[np.maximum(index, 0)], weights
        )
    labels = np.full(shape, NONE, np.int32)
    for row, i in enumerate(index):
        if i != NONE:
            labels[row, : len(rows.labels[i])] = rows.labels[i]
    known = (labels != NONE).astype(np.float32)
    return TaskBatch(tokens, types, mask, np.maximum(labels, 0), known)
