"""A table of one or two texts and a label in each row: TSV, CSV, JSONL → examples.

    sentence<TAB>label                    {"sentence1": "…", "sentence2": "…", …}
    it 's charming<TAB>1

    sent1,sent2,ending0,ending1,ending2,ending3,label                     SWAG's CSV
    {"article": "…", "question": "…", "options": ["…", …], "answer": "C"}    RACE's

TSV is GLUE's: a line a row, no quoting but with `task.quoted`. CSV is quoted as in RFC
4180. A column is named as in the header or, without a header, by its number from 0. No
row is skipped, so that answers line up with the file; blank lines are allowed at the
end only, and in JSONL anywhere.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxlm.config import TaskConfig
from jaxlm.tasks.data_files import split_of
from jaxlm.tasks.values import is_number, label_of, lines_of, parse, text_of, trimmed
from jaxlm.text import sources
from jaxlm.text.sources import COMPRESSED, TFDS, Digests
from jaxlm.types import UserError

_FLAGS = "--task.text, --task.pair, --task.label and --task.choices"
Row = tuple[str, list[str]]  # "file, line 7" and the cells
Records = Iterator[tuple[str, dict[str, Any]]]  # the same with the cell of each column

_JSON = (".jsonl", ".json")
_OTHERS = (*_JSON, ".csv")  # any other name is TSV
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
# Words that columns are called by: sentence1, text_a, gold_label.
_NAMES = (
    "sentence sentences sent text texts string premise hypothesis question questions "
    "query passage context document article paragraph title headline content body "
    "abstract summary review reviews comment comments message tweet utterance answer "
    "answers label labels gold class classes category categories target score scores "
    "similarity quality rating stars sentiment polarity emotion intent topic "
    "id index idx word words token tokens tag tags pos ner 文本 句子 评论 标签"
)


class Example(NamedTuple):
    """One row of a table."""

    text: str
    pair: str | None
    label: str | None
    where: str  # "file, line 7", for messages
    choices: tuple[str, ...] = ()  # two or more, in multiple choice
    width: int = 0  # columns of a table without a header


def read_table(
    path: str, task: TaskConfig, *, labelled: bool, digests: Digests | None = None
) -> list[Example]:
    """The rows of a file, with their labels if `labelled`.

    `path` is a `.jsonl` or `.csv` file, compressed or not; any other name is TSV. Or it
    is `tfds:NAME:SPLIT`, whose fields are the columns. `task` names the columns.
    """
    pair, label = [task.pair] * bool(task.pair), [task.label] * labelled
    columns, width = [task.text, *pair, *label, *task.choices], 0
    if labelled and columns.count(task.label) > 1:
        raise UserError(f"{path}: column {task.label} cannot be both label and text")
    suffixes = [s for s in PurePath(path).suffixes if s not in COMPRESSED]
    suffix = suffixes[-1].lower() if suffixes else ""
    if task.quoted and (path.startswith(TFDS) or suffix in _OTHERS):
        raise UserError(f"{path} is not TSV: pass --task.quoted false")
    if path.startswith(TFDS):
        records = _dataset_records(path, columns)
    elif suffix in _JSON:
        records = _json_records(path, sources.read_file(path, digests), columns)
    else:
        content = sources.read_file(path, digests).rstrip("\r\n")
        if suffix == ".csv" or task.quoted:
            text = io.StringIO(content, newline="\n")  # a CR not quoted is an error
            delimiter = "," if suffix == ".csv" else "\t"
            rows = list(sources.read_csv(path, text, delimiter))
        else:
            lines = enumerate(lines_of(content) if content else [], start=1)
            rows = [(f"{path}, line {n}", s.split("\t") if s else []) for n, s in lines]
        width = _width(rows, columns, task) if rows else 0
        records = _named(rows, columns, width) if rows else ()
    examples = [_example(*each, task, labelled, width) for each in records]
    if not examples:
        raise UserError(f"{path} has no rows")
    return examples


def remarks(path: str, examples: Sequence[Example]) -> list[str]:
    """What looks wrong in the texts of a file."""
    found: list[str] = []
    if len(examples) > 1 and all(is_number(each.text) for each in examples):
        found.append(f"{path}: all texts are numbers: is --task.text another column?")
    texts = [text for each in examples for text in each[:3] if text]
    quoted = [text for text in texts if '"' in text]
    always = len(quoted) > 1 and all('"' in each.text for each in examples)
    doubled = any('""' in text[1:-1] for text in quoted)
    if (always or doubled) and all(map(_QUOTED.fullmatch, quoted)):
        found.append(
            f"{path}: its quotes look as csv and pandas write them, and are read as "
            "text: pass --task.quoted to remove them"
        )
    return found


def width_of(examples: Sequence[Any]) -> int:
    """The number of columns if they are read by number; 0 otherwise."""
    return getattr(examples[0], "width", 0)


def width_notes(path: str, examples: Sequence[Any], width: int) -> list[str]:
    """A note if a file has fewer or more columns than the training file."""
    here = width_of(examples)
    told = f"{path} has {here} columns, the training file {width}: see --task.text"
    return [told] * bool(here and width and here != width)


def _example(
    where: str, record: dict[str, Any], task: TaskConfig, labelled: bool, width: int
) -> Example:
    def text(name: str) -> str:
        found = text_of(where, name, record[name])
        if not trimmed(found):
            raise UserError(f"{where}: an empty {name}")
        return found

    listed = [(name, record[name]) for name in task.choices]
    if len(listed) == 1 and isinstance(listed[0][1], list):
        listed = [(task.choices[0], each) for each in listed[0][1]]
    choices = [text_of(where, *each) for each in listed]
    while len(task.choices) > 1 and choices and not trimmed(choices[-1]):
        choices.pop()  # the last columns of a table may be empty
    for i, each in enumerate(choices, start=1):
        if not trimmed(each):
            raise UserError(f"{where}: alternative {i} of {len(choices)} is empty")
    if task.choices and len(choices) < 2:
        these = f"{len(choices)} alternatives in {', '.join(task.choices)}"
        raise UserError(f"{where}: {these}, at least two are needed")
    pair = text(task.pair) if task.pair else None
    label = label_of(where, task.label, record[task.label]) if labelled else None
    return Example(text(task.text), pair, label, where, tuple(choices), width)


def _dataset_records(path: str, columns: Sequence[str]) -> Records:
    spec, split = split_of(path)
    if not split:
        raise UserError(f"{path} names no split: {path}:validation, for example")
    for number, cells in enumerate(sources.read_columns(spec, split, columns)):
        yield f"{path}, record {number}", dict(zip(columns, cells, strict=True))


def _json_records(path: str, content: str, columns: Sequence[str]) -> Records:
    for number, line in enumerate(lines_of(content), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = None if line.lstrip()[0] == "[" else parse(where, line)
        if not isinstance(record, dict):
            remedy = "each line is one (jq -c '.[]' makes lines of a list)"
            raise UserError(f"{where}: no JSON object: {remedy}")
        for name in columns:
            if name not in record:
                have = " ".join(", ".join(record).split())[:300]
                raise UserError(f"{where}: no key {name!r}, but {have}")
        yield where, record


def _width(rows: Sequence[Row], columns: Sequence[str], task: TaskConfig) -> int:
    """The number of columns if these are given by number; 0: the first row names them.

    UserError if the first row looks like a header although numbers are given.
    """
    where, first = rows[0]
    # pandas writes such a header for columns without names.
    counted = len(first) > 1 and first == [str(i) for i in range(len(first))]
    if counted or not all(name.isdecimal() for name in columns):
        return 0
    for name in columns:
        if int(name) >= len(first):
            raise UserError(f"{where}: no column {name}, the last is {len(first) - 1}")
    if _is_header(rows, task):
        raise UserError(
            f"{where} looks like a header ({_shown(first)}), and columns are given by "
            "number: name them as it does, --task.text NAME; if it is an example, put "
            "a line of names above it"
        )
    return len(first)


def _is_header(rows: Sequence[Row], task: TaskConfig) -> bool:
    """Whether the first row seems to name the columns that numbers are given for."""
    first = rows[0][1]
    if task.label.isdecimal() and int(task.label) < len(first):
        at = int(task.label)
        label, *others = (trimmed(cells[at]) for _, cells in rows if at < len(cells))
        counts = Counter(others)
        classes = {*task.labels, "", *counts}
        if not counts or label in classes or is_number(label):
            return False
        if task.labels and counts.keys() <= set(task.labels):
            return True
        # It is the only label that is no number, or the only one that does not recur.
        again = len(counts) > 1 and min(counts.values()) > 1
        if again or is_name(label) or all(map(is_number, counts)):
            return True
    used = [name for name in (task.text, task.pair, *task.choices) if name]
    return any(is_name(first[int(name)]) for name in used)


def is_name(cell: str) -> bool:
    """Whether all words of a cell are usual names of columns."""
    words = re.findall(r"[^\W\d_]{2,}", cell[:80].casefold())
    return bool(words) and set(words) <= set(_NAMES.split())


def _named(rows: Sequence[Row], columns: Sequence[str], width: int) -> Records:
    """The cells of the columns, numbered where there is a `width`."""
    where, first = rows[0]
    names = list(map(trimmed, first))
    for name in () if width else columns:
        if names.count(trimmed(name)) != 1:
            twice = "two columns" if trimmed(name) in names else "no column"
            raise UserError(
                f"{where}: {twice} {name!r} in its header ({_shown(first)}): name the "
                f"columns by {_FLAGS}, all as in the header or, without one, all by "
                f"number{_hint(first)}"
            )
    at = {n: int(n) if width else names.index(trimmed(n)) for n in columns}
    for where, cells in rows[0 if width else 1 :]:
        if not cells:
            raise UserError(f"{where}: a blank line, and rows after it")
        if len(cells) != len(first):
            this = f"{len(cells)} columns, the first line has {len(first)}"
            raise UserError(f"{where}: {this}{_hint(cells)}")
        if not width and cells == first and len(first) > 1:
            raise UserError(f"{where}: the header again: remove the line")
        yield where, {name: cells[i] for name, i in at.items()}


def _shown(cells: Sequence[str]) -> str:
    return ", ".join(" ".join(cell[:40].split()) for cell in cells[:20])


def _hint(cells: Sequence[str]) -> str:
    quotes = any(cell.startswith('"') for cell in cells)
    return "; for quotes as in CSV pass --task.quoted" if quotes else ""
