"""Sources of text → fragments of documents, whatever the size of a file.

    "books/*.txt.gz" ─ find_sources ─ Source ─ read_fragments ─ Fragment ─ texts.py

A **document** ends at a blank line in `.txt`, at the end of the line in `.jsonl`
(field "text": a string, or a list of sentences), at the end of the record or article
in tables, TFDS and Wikipedia's dumps (`records.py`, `wiki.py`), and in CoNLL's columns
before a line -DOCSTART- or at two blank lines. A **line** is a
paragraph or a sentence; it ends at "\\n" ("\\r", U+2028 and the like are white space).

Memory is bounded because text is read in **fragments**, up to 64 KiB of a document. A
longer document is cut after the last line end of a fragment; without one, after the
last space; without a space, after the last character. A line that is cut counts as two.
CoNLL's columns are cut at blank lines.

*Verbatim*, for decoders, spaces and line ends are text too; only the blank lines
between documents are dropped. A document is cut where GPT-2's pattern always cuts, so
that the ids of the fragments are those of the whole document.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxlm.text.records import READERS
from jaxlm.text.sources import LONGEST_RECORD, Source, open_source
from jaxlm.types import UserError

FRAGMENT = 1 << 16  # bytes
DOCUMENT_START = "-DOCSTART-"
_LONGEST_SENTENCE = 1 << 20  # bytes of CoNLL's
READ = 1 << 18  # bytes read at a time
AHEAD = 1 << 12  # bytes read behind a fragment, to see the blank line that ends it

# White space that may stand alone in a line that separates documents.
_BLANK = rb"(?:[ \t\r\x0b\x0c]|\xc2\xa0|\xe3\x80\x80)*"
_BLANK_LINE = re.compile(_BLANK)
_SEPARATOR = re.compile(rb"\n" + _BLANK + rb"\n")
_BLANK_LINES = re.compile(rb"(?:" + _BLANK + rb"\n)+")

_TO_LAST_SPACE = re.compile(rb".*[ \t\r\x0b\x0c]", re.DOTALL)
# Unicode's white space in UTF-8.
_WHITE = [
    re.escape(char.encode()) for char in map(chr, range(0x3001)) if char.isspace()
]
_AFTER_TEXT = b"".join(rb"(?<!%b)" % white for white in _WHITE)
_BEFORE_TEXT = rb"(?!" + b"|".join(_WHITE) + rb")"
_LINE_END = re.compile(_AFTER_TEXT + rb"\r?\n" + _BEFORE_TEXT)
_SPACES = (b"\n", b" ", b"\xe3\x80\x80")  # the kinds of white space that are tried
_LAST_SPACE = re.compile(rb"(?:" + b"|".join(_SPACES) + rb")" + _BEFORE_TEXT)

Piece = tuple[int, bool, bytes]  # offset, whether a document starts, bytes


class Fragment(NamedTuple):
    """A document, or up to `FRAGMENT` bytes of one."""

    source: Source
    offset: int  # of `data` in the unpacked source, in bytes; or a record's number
    starts: bool  # a document
    data: bytes  # text; of .jsonl and tables a line of JSON; of a dump wikitext
    read: int  # bytes of the source's file that have been read, for progress

    def where(self, at: int = 0) -> str:
        """How a message names byte `at` of the data: by its file and line."""
        if self.source.kind in READERS:
            return f"{self.source.name}, record {self.offset + 1}"
        line, left = 1, self.offset + at
        with open_source(self.source) as (unpacked, _):
            while left > 0 and (read := unpacked.read(min(left, READ))):
                line, left = line + read.count(b"\n"), left - len(read)
        return f"{self.source.name}, line {line}"


def read_fragments(
    source: Source, start: int = 0, verbatim: bool = False
) -> Iterator[Fragment]:
    """The fragments of a source; `start` is the offset of a document to begin with."""
    if source.kind in READERS:
        for number, data, read in READERS[source.kind](source, start):
            if data and not data.isspace():
                yield Fragment(source, number, True, data, read)
        return
    with open_source(source, start, verbatim) as (unpacked, packed):
        if source.kind == "jsonl":
            lines = _lines(source.name, unpacked, start)
            pieces = ((at, True, line) for at, line in lines if line.strip())
        elif source.kind == "conll":
            pieces = _conll(source.name, unpacked, start)
        else:
            pieces = _txt(unpacked, start, verbatim)
        for piece in pieces:
            yield Fragment(source, *piece, packed.tell())


def _txt(stream: Any, start: int, verbatim: bool) -> Iterator[Piece]:
    buffer, at, offset = b"", 0, start  # buffer[at] is byte `offset` of the source
    starts, in_line = True, False  # next: a new document; the rest of a cut line
    while True:
        while len(buffer) - at <= FRAGMENT + AHEAD and (more := stream.read(READ)):
            buffer, at = buffer[at:] + more, 0
        if verbatim and offset == 0 and buffer.startswith(codecs.BOM_UTF8):
            offset = at = len(codecs.BOM_UTF8)
        # To a decoder the rest of a line is text even if it is blank.
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
        line = buffer.rfind(b"\n", at, end)  # only this one may separate past `end`
        if separator := _SEPARATOR.search(buffer, at, end):
            end = separator.start() + 1
        elif line >= 0 and _SEPARATOR.match(buffer, line):
            end = line + 1
        elif not whole:
            end = (cut_verbatim if verbatim else cut)(buffer, at, end)
        data = buffer[at:end]
        empty = data.isspace()
        if verbatim:  # only what follows the last document belongs to none
            empty = starts and whole and bool(_BLANK_LINE.fullmatch(data))
        if not empty:
            yield offset, starts, data
            starts = False
        in_line = not data.endswith(b"\n")
        offset, at = offset + end - at, end


def _conll(name: str, stream: Any, start: int) -> Iterator[Piece]:
    """Pieces of a file in CoNLL's columns; a piece has whole sentences."""
    fragment: list[bytes] = []
    first, size, blank, starts = start, 0, 0, True
    for offset, line in _lines(name, stream, start):
        if not line.strip():
            blank += 1
            fragment.append(b"")
            continue
        new = blank > 1 or line.startswith(DOCUMENT_START.encode())
        if size and (new or (blank and size >= FRAGMENT)):
            yield first, starts, b"\n".join(fragment)
            fragment, size, starts = [], 0, False
        if size > _LONGEST_SENTENCE:
            where = f"in {size >> 20} MiB before byte {offset}"
            raise UserError(f"{name}: no blank line ends a sentence {where}")
        first = first if size else offset
        starts = starts or new
        blank, size = 0, size + len(line) + 1
        fragment.append(line)
    if size:
        yield first, starts, b"\n".join(fragment)


def _lines(name: str, stream: Any, offset: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each line, without the line end; the last may be empty."""
    line = b"\n"
    while line.endswith(b"\n"):
        line = stream.readline(LONGEST_RECORD + 1)
        if len(line) > LONGEST_RECORD:
            most = f"{LONGEST_RECORD >> 20} MiB; write such documents as .txt"
            raise UserError(f"{name}: the record at byte {offset} exceeds {most}")
        yield offset, line.removesuffix(b"\n")
        offset += len(line)


def cut(text: bytes, at: int, end: int) -> int:
    """The best place to cut text[at:end], if the text continues after `end`."""
    line = text.rfind(b"\n", at, end)
    if line >= 0:
        return line + 1
    if space := _TO_LAST_SPACE.match(text, at, end):
        return space.end()
    return _character(text, end)


def cut_verbatim(text: bytes, at: int, end: int) -> int:
    """Where to cut text[at:end] so that no token before or after the cut changes.

    GPT-2's pattern always ends a token after a single line end between text, and before
    the last character of white space:

        … text ↵ | text …   … text ↵ | ↵ text …   … text ␣ | ␣ text …   … text | ␣ …

    Only a word as long as a fragment has no such place. The caller gives at least three
    bytes after `end`, the most that a space takes, unless the text ends earlier.
    """
    line = end
    while (line := text.rfind(b"\n", at + 1, line)) >= 0:
        if _LINE_END.match(text, line - (text[line - 1] == ord("\r"))):
            return line + 1
    for space in _SPACES:
        place = end
        while (place := text.rfind(space, at + 1, place)) >= 0:
            before = _before_line_end(text, place)
            if before > at and _LAST_SPACE.match(text, place):
                return before
    return _before_line_end(text, _character(text, end))


def _before_line_end(text: bytes, place: int) -> int:
    """`place`, moved out of the middle of "\\r\\n"."""
    return place - (text[place - 1 : place + 1] == b"\r\n")


def _character(text: bytes, end: int) -> int:
    """The largest offset ≤ `end` that does not split a UTF-8 character."""
    for back in range(4):
        if text[end - back] & 0xC0 != 0x80:
            return end - back
    return end
