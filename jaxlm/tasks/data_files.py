"""Paths or dataset names given by a user → the training and dev files → examples.

Tables are read here: one or two texts and a label in each row of TSV, CSV or JSONL.

    sentence<TAB>label                    {"sentence1": "…", "sentence2": "…", …}
    it 's charming<TAB>1

    sent1,sent2,ending0,ending1,ending2,ending3,label                     SWAG's CSV
    {"article": "…", "question": "…", "options": ["…", …], "answer": "C"}    RACE's

TSV is as in GLUE: a line is a row, without quoting. CSV is quoted as in RFC 4180. A
column is named as in the header or, without a header, by its number from 0. No row is
skipped, so that answers line up with the file; blank lines may stand only at the end.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from jaxlm.config import TaskConfig
from jaxlm.text import sources
from jaxlm.text.sources import TFDS, Digests
from jaxlm.types import UserError

_DEV = ("dev", "valid", "validation", "val", "testa")
_COMPRESSIONS = (".xz", ".gz", ".zst")
Row = tuple[str, list[str]]  # "file, line 7" and the cells
Records = Iterator[tuple[str, dict[str, Any]]]  # the same with the cell of each column


class DataFiles(NamedTuple):
    """The paths of the training and the dev file, which may be ""."""

    train: str
    dev: str

    def provenance(self, digests: Digests) -> dict[str, str]:
        """Name → value for the provenance: both paths, and one SHA-256 over all files.

        Files that are not in `digests` are read here.
        """
        total = hashlib.sha256()
        for path in self:
            for each in _files(path):
                if each not in digests:
                    with open(each, "rb") as file:
                        digests[each] = hashlib.file_digest(file, "sha256").digest()
                total.update(digests[each])
            total.update(b"|")
        data, dev = (
            path if not path or path.startswith(TFDS) else str(Path(path).resolve())
            for path in self
        )
        return {"data": data, "dev": dev, "data_sha256": total.hexdigest()}


def _files(path: str) -> list[str]:
    """The files of a path: one file, or all of a directory or dataset; "" has none."""
    if path.startswith(TFDS):
        return sources.record_files(*split_of(path), fields=())
    if path and Path(path).is_dir():
        return [str(each) for each in sorted(Path(path).iterdir())]
    return [path] if path else []


def find_data_files(data: str, dev: str = "") -> DataFiles:
    """The files of `--data` and `--dev`.

    `data` is a training file; or a directory with seq.in and seq.out; or a directory
    that contains either of these, with "train" in its name; or a dataset `tfds:NAME`
    with a split "train"; or `tfds:NAME:SPLIT`. Without `dev`, the dev file is the one
    named dev, valid(ation) or testa in the directory or dataset.
    """
    for each in (data, dev) if dev else (data,):
        if not each.startswith(TFDS) and not Path(each).exists():
            raise UserError(f"no file or directory {each}")
    if data.startswith(TFDS):
        if split_of(data)[1]:
            return DataFiles(data, dev)
        found = [name for name in sources.split_names(data) if name.startswith(_DEV)]
        dev = dev or (f"{data}:{found[0]}" if found else "")
        return DataFiles(f"{data}:train", dev)
    path = Path(data)
    if not path.is_dir() or (path / "seq.in").is_file():
        return DataFiles(data, dev)
    train = _find(path, ("train",))
    if not train:
        have = ", ".join(sorted(each.name for each in path.iterdir())[:8])
        raise UserError(
            f"{data} has no file of training data, train.*: it has {have or 'nothing'}"
        )
    return DataFiles(train, dev or _find(path, _DEV))


def _find(directory: Path, names: tuple[str, ...]) -> str:
    """The path in a directory that matches the names best; "" if none matches."""
    found = []
    for path in directory.iterdir():
        words = path.name.lower().replace("-", ".").replace("_", ".").split(".")
        for rank, name in enumerate(names):
            if name in words and (path.is_file() or (path / "seq.in").is_file()):
                found.append((words[0] != name, rank, path.name))
    return str(directory / min(found)[2]) if found else ""


def split_of(path: str) -> tuple[str, str]:
    """`tfds:NAME:SPLIT` → (`tfds:NAME`, SPLIT); without a split, SPLIT is ""."""
    name, colon, split = path.removeprefix(TFDS).rpartition(":")
    return (TFDS + name, split) if colon and "/" not in split else (path, "")


class Example(NamedTuple):
    """One row of a table."""

    text: str
    pair: str | None
    label: str | None
    where: str  # "file, line 7", for messages
    choices: tuple[str, ...] = ()  # two or more, in multiple choice


def read_table(
    path: str, task: TaskConfig, *, labelled: bool, digests: Digests | None = None
) -> list[Example]:
    """The rows of a file, with their labels if `labelled`.

    `path` is a `.jsonl` or `.csv` file, compressed or not; any other name is TSV. Or it
    is `tfds:NAME:SPLIT`, whose fields are the columns. `task` names the columns.
    """
    pair, label = [task.pair] * bool(task.pair), [task.label] * labelled
    columns = [task.text, *pair, *label, *task.choices]
    suffixes = [s for s in PurePath(path).suffixes if s not in _COMPRESSIONS]
    suffix = suffixes[-1].lower() if suffixes else ""
    if path.startswith(TFDS):
        records = _dataset_records(path, columns)
    elif suffix in (".jsonl", ".json"):
        records = _json_records(path, sources.read_file(path, digests), columns)
    else:
        content = sources.read_file(path, digests).rstrip("\r\n")
        split = _csv if suffix == ".csv" else _tsv
        records = _named(list(split(path, content)), columns) if content else ()
    examples = [_example(where, record, task, labelled) for where, record in records]
    if not examples:
        raise UserError(f"{path} has no rows")
    return examples


def _example(
    where: str, record: dict[str, Any], task: TaskConfig, labelled: bool
) -> Example:
    def text(name: str) -> str:
        if not _text(record[name]).strip():
            raise UserError(f"{where}: an empty {name}")
        return _text(record[name])

    listed = [record[name] for name in task.choices]
    if len(listed) == 1 and isinstance(listed[0], list):
        listed = listed[0]
    choices = list(map(_text, listed))
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
    pair = text(task.pair) if task.pair else None
    label = text(task.label).strip() if labelled else None
    return Example(text(task.text), pair, label, where, tuple(choices))


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _dataset_records(path: str, columns: Sequence[str]) -> Records:
    spec, split = split_of(path)
    if not split:
        raise UserError(f"{path} names no split: {path}:validation, for example")
    for number, cells in enumerate(sources.read_columns(spec, split, columns)):
        yield f"{path}, record {number}", dict(zip(columns, cells, strict=True))


def _json_records(path: str, content: str, columns: Sequence[str]) -> Records:
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
        yield where, record


def _named(rows: Sequence[Row], columns: Sequence[str]) -> Records:
    """(place, column → cell) of each row; columns are numbers, or names in row 0."""
    where, first = rows[0]
    numbered = all(name.isdecimal() for name in columns)
    for name in columns:
        if numbered and int(name) >= len(first):
            raise UserError(f"{where}: no column {name}, the last is {len(first) - 1}")
        if not numbered and name not in first:
            raise UserError(
                f"{where}: no column {name!r} in its header "
                f"({', '.join(cell[:40] for cell in first)}): name the columns by "
                "--task.text, --task.pair, --task.label and --task.choices"
            )
    at = {name: int(name) if numbered else first.index(name) for name in columns}
    for where, cells in rows[0 if numbered else 1 :]:
        if not cells:
            raise UserError(f"{where}: a blank line, and rows after it")
        if len(cells) != len(first):
            raise UserError(
                f"{where}: {len(cells)} columns, the first line has {len(first)}"
            )
        yield where, {name: cells[i] for name, i in at.items()}


def _lines(path: str, content: str) -> Iterator[tuple[str, str]]:
    # `splitlines` would also split at U+2028 and the like, inside a text.
    for number, line in enumerate(content.split("\n"), start=1):
        yield f"{path}, line {number}", line


def _tsv(path: str, content: str) -> Iterator[Row]:
    for where, line in _lines(path, content):
        line = line.rstrip("\r")
        yield where, line.split("\t") if line else []


def _csv(path: str, content: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        for cells in reader:
            yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
