"""Sources of text → fragments of documents → sentences, whatever the size of a file.

    "books/*.txt.gz" ─ find_sources ─ Source ─ read_fragments ─ Fragment ─ sentences_of
                                                                        ├ verbatim_of
                                                                        └ annotated_of

A **document** ends at a blank line in `.txt`, at the end of the line in `.jsonl` (field
"text": a string, or a list of sentences), at the end of the record in TFDS. A **line**
of text is a paragraph or a sentence; it ends at "\\n" ("\\r", U+2028 and their like are
white space). Memory is bounded because nothing is read beyond a fragment: 64 KiB of a
document, cut at the last line end, else (a longer line) at the last space, else (a
longer word) at the last character. A line that was cut is two lines.

*Verbatim*, for decoders, spaces and line ends are text too: the pieces of a document,
joined, are its text. "\\r\\n" is read as "\\n"; a list of sentences has one a line;
blank lines between documents of `.txt` belong to none. Fragments are cut where GPT-2's
pattern cuts whatever follows, so that their ids are those of the whole document.

*Annotated* text (`spans/annotated.py`) comes with its spans. A document of CoNLL's
columns ends before a line -DOCSTART-, or where two lines are blank or more; a fragment
is cut at a blank line.
"""

from __future__ import annotations

import bisect
import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import sentencex

from jaxlm.text.cuts import cut, cut_verbatim
from jaxlm.text.files import Source, Stream, open_source
from jaxlm.text.records import read_records
from jaxlm.text.spans import Annotated, Span, read_conll, read_pku
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
_SENTENCE_END = re.compile(r"\n[ \t\r]*(?=\n)")  # of CoNLL's
_DOCUMENT_START = "-DOCSTART-"
_LONGEST_SENTENCE = 1 << 20  # bytes of CoNLL's

# More sentences a line than this, in the head of a file, and its lines are paragraphs.
# Splitting a file of single sentences again is nearly harmless, the reverse is not.
PARAGRAPHS = 1.1

Sentences = Literal["auto", "split", "lines"]
Errors = Literal["strict", "replace"]


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


class Texts(NamedTuple):
    """What of a fragment is tokenised."""

    texts: list[str]
    replaced: int  # byte sequences that were not UTF-8
    spans: list[list[Span]] | None = None  # of each, where the text is annotated
    dropped: int = 0  # spans that lie in no single text
    second: list[bool] | None = None  # of a dialogue: whether the second speaker's


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


def lines_are_sentences(source: Source, sentences: Sentences, language: str) -> bool:
    """Whether lines are kept whole; "auto" looks at the first 64 KiB of a `.txt`.

    There, lines are sentences if the splitter finds at most 1.1 of them in a line on
    average. Elsewhere "auto" splits, except a record that is a list of sentences.
    CoNLL's are as they are in the file.
    """
    if source.kind == "conll":
        return True
    if sentences != "auto":
        return sentences == "lines"
    if source.kind not in ("txt", "pku"):
        return False
    with open_source(source) as stream:
        head = stream.read(FRAGMENT)
    text = head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8", "replace")
    lines = text.split("\n")
    if source.kind == "pku":
        lines = [each.text for each in _read(source.name, read_pku, lines)]
    counts = [len(_split(language, line)) for line in lines]
    counts = [count for count in counts if count]
    return bool(counts) and sum(counts) <= PARAGRAPHS * len(counts)


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
        new = blank > 1 or line.startswith(_DOCUMENT_START.encode())
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


def sentences_of(
    fragment: Fragment, language: str, errors: Errors = "strict"
) -> tuple[list[str], int]:
    """The sentences of a fragment, and how many invalid byte sequences were replaced.

    Raises:
        UserError: bytes that are not UTF-8 while `errors` is "strict", or a record
            that is not JSON with a "text"; with the file and the offset.
    """
    text, replaced = decoded(fragment, errors)
    if fragment.form == "json":
        content = _record(fragment, text)
        if isinstance(content, list):
            sentences = (each.strip() for each in content)
            return [each for each in sentences if each], replaced
        text = content
    lines = [piece for line in text.split("\n") for piece in _pieces(line)]
    if fragment.lines:
        return [line.strip() for line in lines if line and not line.isspace()], replaced
    return [s for line in lines for s in _split(language, line)], replaced


def verbatim_of(fragment: Fragment, errors: Errors = "strict") -> tuple[list[str], int]:
    """The text of a fragment as it stands, and how many byte sequences were replaced.

    In pieces of at most `FRAGMENT` bytes, none empty.

    Raises:
        UserError: as `sentences_of`.
    """
    text, replaced = decoded(fragment, errors)
    if fragment.form == "json":
        content = _record(fragment, text)
        text = content if isinstance(content, str) else "\n".join([*content, ""])
        if text.isspace():
            return [], replaced
    data = text.replace("\r\n", "\n").encode()
    pieces, at = [], 0
    while len(data) - at > FRAGMENT:
        end = cut_verbatim(data, at, at + FRAGMENT)
        pieces.append(data[at:end])
        at = end
    pieces.append(data[at:])
    return [piece.decode() for piece in pieces if piece], replaced


def annotated_of(fragment: Fragment, language: str, errors: Errors = "strict") -> Texts:
    """The sentences of annotated text, each with its spans; none ends inside of one.

    Raises:
        UserError: as `sentences_of`, or a line is not annotated as the form has it.
    """
    text, replaced = decoded(fragment, errors)
    if fragment.form == "pku":
        lines = (line for line in text.split("\n") if line and not line.isspace())
        found = _read(fragment.source, read_pku, lines)
    else:
        blocks = (each.split("\n") for each in _SENTENCE_END.split(text))
        rows = (
            [r for r in each if r.strip() and not r.startswith(_DOCUMENT_START)]
            for each in blocks
        )
        found = _read(fragment.source, read_conll, filter(None, rows))
    texts, spans, dropped = [], [], 0
    for line in found:
        dropped += line.dropped
        if fragment.lines:
            texts.append(line.text)
            spans.append(line.spans)
            continue
        begins = _begins(line, language)
        ends = [*begins[1:], len(line.text)]
        texts += [line.text[a:b] for a, b in zip(begins, ends, strict=True)]
        inside: list[list[Span]] = [[] for _ in begins]
        for start, end, kind in line.spans:
            i = bisect.bisect_right(begins, start) - 1
            inside[i].append(Span(start - begins[i], end - begins[i], kind))
        spans += inside
    return Texts(texts, replaced, spans, dropped)


def _begins(line: Annotated, language: str) -> list[int]:
    """Where its sentences begin: as the splitter has it, but in no span."""
    begins, at = [], 0
    for sentence in _split(language, line.text):
        begins.append(line.text.index(sentence, at))
        at = begins[-1] + len(sentence)
    for start, end, _ in line.spans:
        first = bisect.bisect_right(begins, start)
        del begins[first : bisect.bisect_left(begins, end, first)]
    return begins


def _read(source: str, read: Callable, lines: Iterable) -> Iterator[Annotated]:
    try:
        yield from map(read, lines)
    except ValueError as error:
        raise UserError(
            f"{source}: {error}; is it annotated as --spans says?"
        ) from None


def _pieces(line: str) -> Iterator[str]:
    """A line, or the parts of one that is longer than a fragment (of a record)."""
    while len(line) > FRAGMENT:
        end = max(line.rfind(" ", 0, FRAGMENT), 0) or FRAGMENT
        yield line[:end]
        line = line[end:]
    yield line


def _split(language: str, line: str) -> list[str]:
    if not line or line.isspace():
        return []
    stripped = (sentence.strip() for sentence in sentencex.segment(language, line))  # pyrefly: ignore
    return [sentence for sentence in stripped if sentence]


def decoded(fragment: Fragment, errors: Errors) -> tuple[str, int]:
    """A fragment's text, and how many byte sequences of it were replaced."""
    try:
        text = fragment.data.decode("utf-8")
        return text.removeprefix("\ufeff") if fragment.offset == 0 else text, 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            byte = fragment.data[error.start]
            raise UserError(
                f"{fragment.source}: byte 0x{byte:02x} at offset "
                f"{fragment.offset + error.start} is not UTF-8; convert the file, or "
                "go on with --errors replace"
            ) from None
    text = fragment.data.decode("utf-8", "replace")
    return text, text.count("\ufffd") - fragment.data.count(b"\xef\xbf\xbd")


def field(fragment: Fragment, line: str, name: str) -> tuple[Any, str]:
    """A field of a record, None where it is not there, and how to name the record.

    Raises:
        UserError: the line is not JSON.
    """
    where = f"{fragment.source}: the record at byte {fragment.offset}"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    return record.get(name) if isinstance(record, dict) else None, where


def _record(fragment: Fragment, line: str) -> str | list[str]:
    text, where = field(fragment, line, "text")
    match text:
        case str():
            return without_surrogates(text)
        case list() if all(isinstance(each, str) for each in text):
            return [without_surrogates(each) for each in text]
    raise UserError(f'{where} has no "text" that is a string or a list of them')


def without_surrogates(text: str) -> str:
    """JSON may spell half a character: "\\ud800" becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
