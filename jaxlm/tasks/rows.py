"""Examples → token rows of any length, on the host. Next: `batches.py`.

    [CLS] a text [SEP]                       types 0 0 0 0
    [CLS] a text [SEP] another one [SEP]     types 0 0 0 0 1 1 1

or as another family frames its rows (`families/family.py`). An example may be a group
of rows: a text with each of several alternatives, or two texts in both orders.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.families.family import Frame, Tokens
from jaxlm.tasks.read.tables import Example

NONE = -1  # no example, no label


class TaskRows(NamedTuple):
    """All rows of a file, on the host."""

    tokens: list[Tokens]  # of each row, [CLS] and [SEP] included
    pair_start: np.ndarray  # int32 [n]: where the second text begins, or the row ends
    pad: int
    # For each row a class (int32), a number (float32) or two positions (int32 [n, 2]),
    # or for each of its tokens a class. NONE where there is no label.
    labels: np.ndarray | list[np.ndarray]
    notes: tuple[str, ...] = ()  # for people
    origins: Sequence[Any] = ()  # where each row comes from, as its task needs it
    group: int = 0  # K rows are an example; 0: one row is, and batches have no axis K

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example; for a group, of its longest row."""
        each = np.array([len(each) for each in self.tokens], np.int64)
        return each.reshape(-1, self.group).max(1) if self.group else each


def encode(examples: Sequence[Example], frame: Frame, length: int) -> TaskRows:
    """Rows of at most `length` tokens, without labels.

    Of a pair that is too long, the longer text loses tokens at its end, one by one
    (google-research/bert run_classifier.py `_truncate_seq_pair`); in a GPT's row each
    text gets half of the row minus two (openai/finetune-transformer-lm train.py
    `max_len`).
    """
    begin, between, end = frame.begin, frame.between, frame.end
    room, half = length - len(begin) - len(end), max(1, length // 2 - 2)
    first = frame.texts([e.text for e in examples])
    pairs = [e.pair for e in examples if e.pair is not None]
    second = frame.texts(pairs) if pairs else []
    if second and len(second) != len(first):
        raise ValueError("some examples are pairs and some are not")
    tokens, pair_start, cut = [], [], 0
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
        pair_start.append(sum(map(len, row[:3])))
    labels = np.zeros(len(tokens), np.int32)
    notes = (f"{cut:,} rows were cut to {length} tokens",) if cut else ()
    return TaskRows(tokens, np.array(pair_start, np.int32), frame.pad, labels, notes)


def encode_groups(
    groups: Sequence[Sequence[Example]], frame: Frame, length: int, size: int
) -> TaskRows:
    """`size` rows for each group, without labels; missing ones have no tokens."""
    rows = encode([each for group in groups for each in group], frame, length)
    empty = rows.tokens[0][:0], 0
    filled = iter(zip(rows.tokens, rows.pair_start.tolist(), strict=True))
    padded = [
        next(filled) if i < len(group) else empty
        for group in groups
        for i in range(size)
    ]
    return rows._replace(
        tokens=[tokens for tokens, _ in padded],
        pair_start=np.array([start for _, start in padded], np.int32),
        labels=np.zeros(len(groups), np.int32),
        group=size,
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
