"""Files of labelled spans → examples → what an edge probe learns from.

    CoNLL-U    upos and xpos: one word; deps: a word and its head (a root has none)
    CoNLL      chunks: the third column; entities: the last one; B-X, I-X …
    JSON lines {"text": "a b c", "targets": [{"span1": [0, 1], "span2": [2, 3],
               "label": "x"}]}, spans [first, end) of words cut at white space

The control task gives each span a label by chance, drawn as often as the true ones,
the same wherever its words occur: a probe can only learn it by heart (Hewitt & Liang
2019). Next: `edge.py`.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np

from jaxlm.keys import hashes
from jaxlm.probe import Label
from jaxlm.probe.features import Text
from jaxlm.text.sources import once, read_lines
from jaxlm.text.spans.annotated import columns_of, entities
from jaxlm.types import UserError

_COUNTED = {"upos": 3, "xpos": 4, "deps": 7}  # columns of CoNLL-U
_JSON = ("json", "srl", "coref")

Span = tuple[int, int]


class Target(NamedTuple):
    """One or two spans of words with their labels."""

    spans: tuple[Span, ...]
    labels: tuple[str, ...]


class Example(NamedTuple):
    """A sentence and its targets."""

    words: tuple[str, ...]
    targets: tuple[Target, ...]

    def spelled(self, target: Target) -> str:
        """The words of a target, by which the control task names it."""
        parts = (" ".join(self.words[first:end]) for first, end in target.spans)
        return "\t".join(parts)


def read_edges(path: str, label: Label, dropped: Counter) -> list[Example]:
    """The sentences that have targets; what does not fit its text is counted."""
    rows = _json(path) if label in _JSON else _columns(path, label)
    found = []
    for words, given in rows:
        kept = []
        for target in given:
            inside = [0 <= a < b <= len(words) for a, b in target.spans]
            if all(inside) and target.labels:
                kept.append(target)
            else:
                dropped["spans outside of their text, or without a label"] += 1
        if kept:
            found.append(Example(words, tuple(kept)))
    sides = {len(each.spans) for example in found for each in example.targets}
    if len(sides) != 1:
        what = "has targets of one span and of two" if sides else "has no target"
        raise UserError(f"{path} {what} (--label {label})")
    return found


def _columns(path: str, label: str) -> Iterator[tuple[tuple[str, ...], list[Target]]]:
    rows: list[list[str]] = []
    for line in [*read_lines(path), ""]:
        counted = label in _COUNTED
        cells = line.split("\t") if counted and line else columns_of(line)
        if cells and not line.startswith(("# ", "#\t", "-DOCSTART-")):
            if len(cells) != (10 if counted else len((rows or [cells])[0])):
                form = "CoNLL-U has 10 columns" if counted else "sentence is uneven"
                raise UserError(f"{path}: {line[:60]!r}: {form}")
            # "8-9" is a token of several words, "8.1" a word that is not written.
            if not counted or cells[0].isdecimal():
                rows.append(cells)
        elif not line.strip() and rows:
            words = tuple(row[1 if counted else 0].strip() or "_" for row in rows)
            yield words, _targets(path, rows, label)
            rows = []


def _targets(path: str, rows: list[list[str]], label: str) -> list[Target]:
    if label == "deps":
        if odd := [row for row in rows if not (row[6].isdecimal() or row[6] == "_")]:
            line = "\t".join(odd[0])
            raise UserError(f"{path}: {line[:60]!r}: its head is not a number")
        return [
            Target(((i, i + 1), (int(row[6]) - 1, int(row[6]))), (row[7],))
            for i, row in enumerate(rows)
            if row[6] not in ("0", "_")
        ]
    if label in _COUNTED:
        cells = [row[_COUNTED[label]] for row in rows]
        return [Target(((i, i + 1),), (cell,)) for i, cell in enumerate(cells)]
    column = 2 if label == "chunks" else -1
    if len(rows[0]) < (3 if label == "chunks" else 2):
        raise UserError(f"{path}: {' '.join(rows[0])!r} has no column of {label}")
    spans = entities([row[column] for row in rows])
    return [Target(((each.start, each.end),), (each.kind,)) for each in spans]


def _json(path: str) -> Iterator[tuple[tuple[str, ...], list[Target]]]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=once)
            found = []
            for each in record["targets"]:
                names = [name for name in ("span1", "span2") if name in each]
                spans = tuple((index(a), index(b)) for a, b in (each[n] for n in names))
                label = each["label"]
                labels = [label] if isinstance(label, str) else label
                found.append(Target(spans, tuple(map(str, labels))))
            yield tuple(record["text"].split()), found
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            form = '{"text": …, "targets": [{"span1": [0, 1], "label": …}]}'
            raise UserError(f"{path}, line {number}: not {form}: {error!r}") from None


class Cells(NamedTuple):
    """The targets of a file, sentence by sentence, in tokens of all its texts."""

    spans: np.ndarray  # int64 [sides, targets, 2]: [first, end)
    labels: np.ndarray  # bool [2, targets, Y]: of the task, of the control task
    sentence: np.ndarray  # int64 [sentences + 1]: where its targets begin


def cells(
    examples: Sequence[Example],
    texts: Sequence[tuple[Text, np.ndarray]],
    names: Sequence[str],
    shares: np.ndarray,
    dropped: Counter,
) -> Cells:
    """Targets as `Cells`; `shares` [Y] are how often the control draws each label."""
    place = {name: i for i, name in enumerate(names)}
    spans, labels, counts, offset = [], [], [0], 0
    limits = np.cumsum(shares) / shares.sum()
    for example, (_, starts) in zip(examples, texts, strict=True):
        for target in example.targets:
            bounds = [(starts[a] + offset, starts[b] + offset) for a, b in target.spans]
            if any(a == b for a, b in bounds):
                dropped["spans without a token"] += 1
                continue
            spans.append(bounds)
            both = np.zeros((2, len(names)), bool)
            both[0, [place[each] for each in target.labels]] = True
            word = np.array([zlib.crc32(example.spelled(target).encode())])
            chance = hashes(0, "control", word)[0] / 2.0**64
            drawn = np.searchsorted(limits, chance, side="right")
            both[1, min(int(drawn), len(names) - 1)] = True
            labels.append(both)
        counts.append(len(spans))
        offset += int(starts[-1])
    found: Any = np.array(spans, np.int64)
    arrays = found.swapaxes(0, 1), np.array(labels).swapaxes(0, 1)
    return Cells(*arrays, np.array(counts))
