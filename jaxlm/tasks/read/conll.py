"""Files of tagged words → sentences.

EU B-ORG           train/seq.in    show flights          text_a<TAB>label
rejects O          train/seq.out   O    O                海\x02钓<TAB>O\x02O
                                                         (PaddlePaddle/ERNIE's)
He O
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxlm.text.sources import read_file
from jaxlm.types import UserError

_BETWEEN = "\x02"


class Sentence(NamedTuple):
    """Words with their tags; none where they are not read."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str  # "file, line 7", of the first word
    line: int  # of the first word
    step: int  # lines from word to word: 1 in a column, 0 in a row

    def at(self, word: int, path: str) -> str:
        """Where a word stands."""
        return f"{path}, line {self.line + word * self.step}"


def read_sentences(path: str, *, labelled: bool) -> list[Sentence]:
    """The sentences of a file, or of a directory with `seq.in` and `seq.out`.

    Of a CoNLL file the first column is the word and the last one the tag; columns are
    cut at tabs, or at white space where a line has none.

    Raises:
        UserError: a word has no tag, a line has more or fewer columns than the first,
            a line of seq.in is blank and not at the end, or there are no sentences; the
            file and its line.
    """
    if Path(path).is_dir():
        found = list(_two_files(path, labelled))
    else:
        lines = read_file(path).split("\n")
        ernie = lines[0].rstrip("\r").split("\t")[:1] == ["text_a"] or any(
            _BETWEEN in line for line in lines[:2]
        )
        found = list((_ernie if ernie else _conll)(path, lines, labelled))
    if not found:
        raise UserError(f"{path} has no sentences")
    return found


def _conll(path: str, lines: list[str], labelled: bool) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    first, width = 1, 0
    for number, line in enumerate([*lines, ""], start=1):
        line = line.rstrip()
        cells = line.split("\t") if "\t" in line else line.split()
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                yield Sentence(
                    tuple(words), tuple(tags), f"{path}, line {first}", first, 1
                )
            words, tags = [], []
            continue
        if labelled and len(cells) < 2:
            raise UserError(f"{path}, line {number}: {cells[0]!r} has no tag")
        width = width or len(cells)
        if len(cells) != width:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, the first line has "
                f"{width}"
            )
        if not words:
            first = number
        words.append(cells[0])
        if labelled:
            tags.append(cells[-1])


def _two_files(path: str, labelled: bool) -> Iterator[Sentence]:
    words_at = f"{path}/seq.in"
    rows = read_file(words_at).split("\n")
    tags = read_file(f"{path}/seq.out").split("\n") if labelled else [""] * len(rows)
    if len(rows) != len(tags):
        raise UserError(f"{words_at} has {len(rows)} lines, seq.out {len(tags)}")
    last = max((i for i, row in enumerate(rows, start=1) if row.strip()), default=0)
    for number, (row, of_row) in enumerate(zip(rows, tags, strict=True), start=1):
        where = f"{words_at}, line {number}"
        if not row.strip() and (number < last or of_row.strip()):
            raise UserError(f"{where}: an empty sentence")
        if row.strip():
            yield _row(row.split(), of_row.split(), where, number, labelled)


def _ernie(path: str, lines: list[str], labelled: bool) -> Iterator[Sentence]:
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and cells[0] == "text_a"):
            continue
        where = f"{path}, line {number}"
        if labelled and len(cells) < 2:
            raise UserError(f"{where}: no column of tags")
        tags = cells[-1].split(_BETWEEN) if labelled else []
        words = cells[-2 if labelled and len(cells) > 1 else 0].split(_BETWEEN)
        yield _row(words, tags, where, number, labelled)


def _row(
    words: list[str], tags: list[str], where: str, number: int, labelled: bool
) -> Sentence:
    if labelled and len(words) != len(tags):
        raise UserError(f"{where}: {len(words)} words and {len(tags)} tags")
    return Sentence(tuple(words), tuple(tags), where, number, 0)
