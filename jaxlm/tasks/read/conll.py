"""Files of tagged words → sentences.

EU B-ORG           train/seq.in    show flights          text_a<TAB>label
rejects O          train/seq.out   O    O                海\x02钓<TAB>O\x02O

He O               (one word a line; two parallel files; PaddlePaddle/ERNIE's form)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxlm.text.sources import Digests, read_file
from jaxlm.types import UserError

_SEPARATOR = "\x02"


class Sentence(NamedTuple):
    """Words with their tags; without tags if they are not read."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    path: str
    line: int  # of the first word
    step: int  # lines from word to word: 1 in a column, 0 in a row

    def where(self, word: int = 0) -> str:
        """ "file, line 7" of a word, for messages."""
        return f"{self.path}, line {self.line + word * self.step}"


def read_sentences(
    path: str, labelled: bool, digests: Digests | None = None
) -> list[Sentence]:
    """The sentences of a file, or of a directory with `seq.in` and `seq.out`.

    The first column of a CoNLL file is the word, the last one the tag. Columns are
    separated by tabs, or by white space in a line without tabs.

    Args:
        labelled: read the tags.
        digests: see `read_file`.

    Raises:
        UserError: a word has no tag, a line has more or fewer columns than the first,
            a line of seq.in is blank before the end, or there are no sentences.
    """
    if Path(path).is_dir():
        found = list(_two_files(path, labelled, digests))
    else:
        lines = read_file(path, digests).split("\n")
        ernie = lines[0].rstrip("\r").split("\t")[:1] == ["text_a"] or any(
            _SEPARATOR in line for line in lines[:2]
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
                yield Sentence(tuple(words), tuple(tags), path, first, 1)
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


def _two_files(
    path: str, labelled: bool, digests: Digests | None
) -> Iterator[Sentence]:
    words_file = f"{path}/seq.in"
    rows = read_file(words_file, digests).split("\n")
    tags = [""] * len(rows)
    if labelled:
        tags = read_file(f"{path}/seq.out", digests).split("\n")
    if len(rows) != len(tags):
        raise UserError(f"{words_file} has {len(rows)} lines, seq.out {len(tags)}")
    last = max((i for i, row in enumerate(rows, start=1) if row.strip()), default=0)
    for number, (row, tags_row) in enumerate(zip(rows, tags, strict=True), start=1):
        if not row.strip() and (number < last or tags_row.strip()):
            raise UserError(f"{words_file}, line {number}: an empty sentence")
        if row.strip():
            yield _row(row.split(), tags_row.split(), words_file, number, labelled)


def _ernie(path: str, lines: list[str], labelled: bool) -> Iterator[Sentence]:
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and cells[0] == "text_a"):
            continue
        if labelled and len(cells) < 2:
            raise UserError(f"{path}, line {number}: no column of tags")
        tags = cells[-1].split(_SEPARATOR) if labelled else []
        words = cells[-2 if labelled else 0].split(_SEPARATOR)
        yield _row(words, tags, path, number, labelled)


def _row(
    words: list[str], tags: list[str], path: str, number: int, labelled: bool
) -> Sentence:
    found = Sentence(tuple(words), tuple(tags), path, number, 0)
    if labelled and len(words) != len(tags):
        raise UserError(f"{found.where()}: {len(words)} words and {len(tags)} tags")
    return found
