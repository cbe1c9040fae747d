"""A fragment of a document → what of it is tokenised.

    Fragment ┬ sentences_of     sentences, without the white space around them
             ├ verbatim_of      its text as it stands, for decoders
             └ annotated_of     sentences with their spans

*Verbatim*, the pieces of a document, joined, are its text. "\\r\\n" is read as "\\n"; a
list of sentences has one a line. *Annotated* text (`spans/annotated.py`) comes with its
spans. Next: `blocks.py`.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import sentencex

from jaxlm.text import documents
from jaxlm.text.cuts import cut_verbatim
from jaxlm.text.documents import DOCUMENT_START, Fragment
from jaxlm.text.sources import Source, open_source
from jaxlm.text.spans import Annotated, Span, read_conll, read_pku
from jaxlm.types import UserError

# More sentences a line than this, in the head of a file, and its lines are paragraphs.
# Splitting a file of single sentences again is nearly harmless, the reverse is not.
PARAGRAPHS = 1.1

_SENTENCE_END = re.compile(r"\n[ \t\r]*(?=\n)")  # of CoNLL's

Sentences = Literal["auto", "split", "lines"]
Errors = Literal["strict", "replace"]


class Texts(NamedTuple):
    """What of a fragment is tokenised."""

    texts: list[str]
    replaced: int  # byte sequences that were not UTF-8
    spans: list[list[Span]] | None = None  # of each, where the text is annotated
    dropped: int = 0  # spans that lie in no single text
    second: list[bool] | None = None  # of a dialogue: whether the second speaker's


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
        head = stream.read(documents.FRAGMENT)
    text = head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8", "replace")
    lines = text.split("\n")
    if source.kind == "pku":
        lines = [each.text for each in _read(source.name, read_pku, lines)]
    counts = [len(_split(language, line)) for line in lines]
    counts = [count for count in counts if count]
    return bool(counts) and sum(counts) <= PARAGRAPHS * len(counts)


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
    while len(data) - at > documents.FRAGMENT:
        end = cut_verbatim(data, at, at + documents.FRAGMENT)
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
            [r for r in each if r.strip() and not r.startswith(DOCUMENT_START)]
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
    while len(line) > documents.FRAGMENT:
        end = max(line.rfind(" ", 0, documents.FRAGMENT), 0) or documents.FRAGMENT
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
