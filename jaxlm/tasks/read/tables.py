"""TSV, CSV and JSONL files → examples: one or two texts and a label.

    sentence<TAB>label                    {"sentence1": "…", "sentence2": "…", …}
    it 's charming<TAB>1

    sent1,sent2,ending0,ending1,ending2,ending3,label                     SWAG's CSV
    {"article": "…", "question": "…", "options": ["…", …], "answer": "C"}    RACE's

TSV is GLUE's: a line a row, no quoting. CSV is quoted as in RFC 4180. A column is named
as in the header or, without a header, by its number from 0. No row is skipped, so that
answers line up with the file; blank lines are allowed at the end only.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxlm.config import TaskConfig
from jaxlm.tasks.read.data_files import split_of
from jaxlm.text.sources import TFDS, Digests, read_columns, read_file
from jaxlm.types import UserError

_COMPRESSIONS = (".xz", ".gz", ".zst")
Rows = Iterator[tuple[str, list[Any]]]  # "file, line 7" and the cells of each row


class Example(NamedTuple):
    """One row of a file."""

    text: str
    pair: str | None
    label: str | None
    where: str  # "file, line 7", for messages
    choices: tuple[str, ...] = ()  # two or more, in multiple choice


def read_table(
    path: str, task: TaskConfig, *, labelled: bool, digests: Digests | None = None
) -> list[Example]:
    """The rows of a file, with their labels if `labelled`.

    Args:
        path: `.jsonl`, `.csv`, or any other name for TSV, compressed or not; or
            `tfds:NAME:SPLIT`, whose columns are its fields.
        task: names the columns.
        digests: see `read_file`.

    Raises:
        UserError: a column is missing, a row has more or fewer columns than the first,
            a text is empty, a line is blank before the end, a quote of CSV does not
            end, or the file is not UTF-8; with the file and its line.
    """
    pair, label = [task.pair] * bool(task.pair), [task.label] * labelled
    columns = [task.text, *pair, *label, *task.choices]
    suffixes = [s for s in PurePath(path).suffixes if s not in _COMPRESSIONS]
    suffix = suffixes[-1].lower() if suffixes else ""
    if path.startswith(TFDS):
        rows = _record_rows(path, columns)
    elif suffix in (".jsonl", ".json"):
        rows = _json_rows(path, read_file(path, digests), columns)
    else:
        split = _csv if suffix == ".csv" else _tsv
        rows = _named(_without_end(split(path, read_file(path, digests))), columns)
    examples = [_example(where, cells, task, labelled) for where, cells in rows]
    if not examples:
        raise UserError(f"{path} has no rows")
    return examples


def _example(where: str, cells: list[Any], task: TaskConfig, labelled: bool) -> Example:
    fixed = len(cells) - len(task.choices)
    text, *rest = map(_text, cells[:fixed])
    pair = rest.pop(0) if task.pair else None
    label = rest.pop(0).strip() if labelled else None
    for name, each in ((task.text, text), (task.pair, pair), (task.label, label)):
        if each is not None and not each.strip():
            raise UserError(f"{where}: an empty {name}")
    listed = (each if isinstance(each, list) else [each] for each in cells[fixed:])
    choices = [_text(each) for one in listed for each in one]
    while len(task.choices) > 1 and choices and not choices[-1].strip():
        choices.pop()  # the last columns of a table may be empty
    for i, each in enumerate(choices, start=1):
        if not each.strip():
            raise UserError(f"{where}: alternative {i} of {len(choices)} is empty")
    if task.choices and len(choices) < 2:
        raise UserError(
            f"{where}: {len(choices)} alternatives in {', '.join(task.choices)}, at "
            "least two are needed"
        )
    return Example(text, pair, label, where, tuple(choices))


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _record_rows(path: str, columns: Sequence[str]) -> Rows:
    spec, split = split_of(path)
    if not split:
        raise UserError(f"{path} names no split: {path}:validation, for example")
    for number, cells in enumerate(read_columns(spec, split, columns)):
        yield f"{path}, record {number}", list(cells)


def _json_rows(path: str, content: str, columns: Sequence[str]) -> Rows:
    for where, line in _lines(path, content):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: no JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: no JSON object")
        for name in columns:
            if name not in record:
                have = ", ".join(record)
                raise UserError(f"{where}: no key {name!r}, but {have}")
        yield where, [record[name] for name in columns]


def _named(rows: Rows, columns: Sequence[str]) -> Rows:
    """The cells of the columns, which the first row names unless they are numbers."""
    width, at = 0, []
    for where, cells in rows:
        header = not width and not all(name.isdecimal() for name in columns)
        if header:
            missing = [name for name in columns if name not in cells]
            if missing:
                raise UserError(
                    f"{where}: no column {missing[0]!r} in its header "
                    f"({', '.join(cell[:40] for cell in cells)}): name the columns by "
                    "--task.text, --task.pair, --task.label and --task.choices"
                )
            at = [cells.index(name) for name in columns]
        elif not width:
            at = [int(name) for name in columns]
            if max(at) >= len(cells):
                raise UserError(
                    f"{where}: no column {max(at)}, the last is {len(cells) - 1}"
                )
        width = width or len(cells)
        if len(cells) != width:
            raise UserError(
                f"{where}: {len(cells)} columns, the first line has {width}"
            )
        if not header:
            yield where, [cells[i] for i in at]


def _lines(path: str, content: str) -> Iterator[tuple[str, str]]:
    # `splitlines` would also split at U+2028 and the like, inside a text.
    for number, line in enumerate(content.split("\n"), start=1):
        yield f"{path}, line {number}", line


def _tsv(path: str, content: str) -> Rows:
    for where, line in _lines(path, content):
        line = line.rstrip("\r")
        yield where, line.split("\t") if line else []


def _csv(path: str, content: str) -> Rows:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        for cells in reader:
            yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _without_end(rows: Rows) -> Rows:
    """Rows without the blank lines at the end."""
    blank = ""
    for where, cells in rows:
        if cells and blank:
            raise UserError(f"{blank}: a blank line, and rows after it")
        if cells:
            yield where, cells
        blank = blank or ("" if cells else where)
