"""Sources of text → fragments of documents, whatever the size of a file.

    "books/*.txt.gz" ─ find_sources ─ Source ─ read_fragments ─ Fragment ─ sentences.py

A **document** ends at a blank line in `.txt`, at the end of the line in `.jsonl` (field
"text": a string, or a list of sentences), at the end of the record in TFDS. A **line**
of text is a paragraph or a sentence; it ends at "\\n" ("\\r", U+2028 and their like are
white space). Memory is bounded because nothing is read beyond a fragment: 64 KiB of a
document, cut at the last line end, else (a longer line) at the last space, else (a
longer word) at the last character. A line that was cut is two lines.

*Verbatim*, for decoders, spaces and line ends are text too. Blank lines between
documents of `.txt` belong to none. Fragments are cut where GPT-2's pattern cuts
whatever follows, so that their ids are those of the whole document.

A document of CoNLL's columns ends before a line -DOCSTART-, or where two lines are
blank or more; a fragment is cut at a blank line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxlm.text.cuts import cut, cut_verbatim
from jaxlm.text.sources import Source, Stream, open_source
from jaxlm.text.tfds import read_records
from jaxlm.types import UserError

FRAGMENT = 1 << 16  # bytes
LONGEST_RECORD = 1 << 25  # bytes of one line of .jsonl
_READ = 1 << 18
_AHEAD = 1 << 12  # bytes read behind a fragment, to see the blank line that ends it

# White space that may stand alone in a line that separates documents.
_BLANK = rb"(?:[ \t\r\x0b\x0c]|\xc2\xa0|\xe3\x80\x80)*"
_BLANK_LINE = re.compile(_BLANK)
_SEPARATOR = re.compile(rb"\n" + _BLANK + rb"\n")
_BLANK_LINES = re.compile(rb"(?:" + _BLANK + rb"\n)+")
DOCUMENT_START = "-DOCSTART-"
_LONGEST_SENTENCE = 1 << 20  # bytes of CoNLL's


class Fragment(NamedTuple):
    """A document, or up to `FRAGMENT` bytes of one."""

    source: str
    offset: int  # of `data` in the (unpacked) source, in bytes; of a record: its number
    starts: bool  # a document
    lines: bool  # each line is a sentence; False: split it
    form: str  # "text"; "json": one line of .jsonl; "pku", "conll": annotated text
    data: bytes
    read: int  # bytes of the source's file that have been read, for progress
    language: str = ""  # as its source is labelled


def read_fragments(
    source: Source, *, start: int = 0, lines: bool, verbatim: bool = False
) -> Iterator[Fragment]:
    """The fragments of one source, from `start` (the `offset` of one that starts).

    Args:
        source: what is read.
        start: the `offset` of a fragment that starts a document.
        lines: lines are sentences (see `lines_are_sentences`).
        verbatim: spaces and line ends are text (see `verbatim_of`).

    Raises:
        UserError: the source cannot be read or unpacked, or a record is too long.
    """
    if source.kind == "tfds":
        for number, of, data in read_records(source.name, start):
            if not data or data.isspace():
                continue
            read = source.size * number // of
            yield Fragment(
                source.name, number, True, lines, "text", data, read, source.language
            )
        return
    form = {"jsonl": "json", "txt": "text"}.get(source.kind, source.kind)
    with open_source(source, start) as stream:
        if form == "json":
            pieces = _jsonl(source.name, stream, start)
        elif form == "conll":
            pieces = _conll(source.name, stream, start)
        else:
            pieces = _txt(stream, start, verbatim)
        for offset, starts, data in pieces:
            read = stream.packed_bytes_read
            yield Fragment(
                source.name, offset, starts, lines, form, data, read, source.language
            )


def _txt(
    stream: Stream, start: int, verbatim: bool
) -> Iterator[tuple[int, bool, bytes]]:
    """(offset, starts a document, bytes) of each fragment of a text file."""
    buffer, at, offset = b"", 0, start  # buffer[at] is byte `offset` of the source
    starts, in_line = True, False  # next: a new document; the rest of a cut line
    while True:
        while len(buffer) - at <= FRAGMENT + _AHEAD and (more := stream.read(_READ)):
            buffer, at = buffer[at:] + more, 0
        if verbatim and offset == 0 and buffer.startswith(codecs.BOM_UTF8):
            offset = at = len(codecs.BOM_UTF8)
        # The rest of a line is text to a decoder even where nothing is in it.
        separates = not (verbatim and in_line)
        if separates and (blank := _BLANK_LINES.match(buffer, at)):
            lines = blank.group().count(b"\n")
            starts, in_line = starts or lines > in_line, False
            offset, at = offset + len(blank.group()), blank.end()
            continue
        if at == len(buffer):
            return
        whole = len(buffer) - at <= FRAGMENT
        end = len(buffer) if whole else at + FRAGMENT
        line = buffer.rfind(b"\n", at, end)  # the only one that may separate past `end`
        if separator := _SEPARATOR.search(buffer, at, end):
            end = separator.start() + 1
        elif line >= 0 and _SEPARATOR.match(buffer, line):
            end = line + 1
        elif not whole:
            end = (cut_verbatim if verbatim else cut)(buffer, at, end)
        data = buffer[at:end]
        empty = data.isspace()
        if verbatim:  # only what follows the last document is none of it
            empty = starts and whole and bool(_BLANK_LINE.fullmatch(data))
        if not empty:
            yield offset, starts, data
            starts = False
        in_line = not data.endswith(b"\n")
        offset, at = offset + end - at, end


def _jsonl(name: str, stream: Stream, start: int) -> Iterator[tuple[int, bool, bytes]]:
    """(offset, True, bytes) of each record, that is each line, of a file."""
    for offset, line in _lines(name, stream, start):
        if line and not line.isspace():
            yield offset, True, line


def _conll(name: str, stream: Stream, start: int) -> Iterator[tuple[int, bool, bytes]]:
    """(offset, starts a document, bytes) of whole sentences of a file of columns."""
    fragment: list[bytes] = []
    first, size, blank, starts = start, 0, 0, True
    for offset, line in _lines(name, stream, start):
        if not line or line.isspace():
            blank += 1
            fragment.append(b"")
            continue
        new = blank > 1 or line.startswith(DOCUMENT_START.encode())
        if size and (new or (blank and size >= FRAGMENT)):
            yield first, starts, b"\n".join(fragment)
            fragment, size, starts = [], 0, False
        if size > _LONGEST_SENTENCE:
            raise UserError(
                f"{name}: there is no blank line, which ends a sentence, in the "
                f"{size >> 20} MiB before byte {offset}"
            )
        first = first if size else offset
        starts = starts or new
        blank, size = 0, size + len(line) + 1
        fragment.append(line)
    if size:
        yield first, starts, b"\n".join(fragment)


def _lines(name: str, stream: Stream, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each line, whatever is in it."""
    buffer, offset, more = b"", start, True
    while more:
        more = stream.read(_READ)
        *lines, rest = (buffer + more).split(b"\n") if more else (buffer, b"")
        for line in lines:
            yield offset, line
            offset += len(line) + 1
        buffer = rest
        if len(buffer) > LONGEST_RECORD:
            raise UserError(
                f"{name}: the record at byte {offset} is longer than "
                f"{LONGEST_RECORD >> 20} MiB; write such documents as .txt"
            )
