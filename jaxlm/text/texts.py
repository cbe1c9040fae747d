"""A fragment of a document → the texts in it that are tokenised.

    sentences_of    sentences, without the white space around them
    verbatim_of     the text as it stands, for decoders: pieces that joined are the text
    turns_of        turns of a dialogue, each a sentence, and who speaks
    annotated_of    sentences with their spans (`spans/annotated.py`)

A dialogue is a line of `.jsonl` and a document of the corpus; without names, the two
speakers alternate:

    {"turns": ["How old are you?", "8.", "Where is your home?"]}
    {"turns": [{"speaker": "A", "text": "Hello?"}, {"speaker": "A", "text": "Oh!"}, …]}

Next: `units.py`.
"""

import bisect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import sentencex

from jaxlm.text import documents
from jaxlm.text.documents import DOCUMENT_START, Fragment, cut_verbatim
from jaxlm.text.languages import converter, primary
from jaxlm.text.recipe import Errors, Recipe, Sentences
from jaxlm.text.sources import Source, open_source
from jaxlm.text.spans import Annotated, Span, read_conll, read_pku
from jaxlm.types import UserError

# The lines of a file are paragraphs if its head has more sentences a line than this.
# Splitting a file of single sentences again does little harm, the reverse does.
PARAGRAPHS = 1.1

_CONLL_SENTENCE_END = re.compile(r"\n[ \t\r]*(?=\n)")


class Texts(NamedTuple):
    """What is tokenised of a fragment."""

    texts: list[str]
    replaced: int  # byte sequences that were not UTF-8
    spans: list[list[Span]] | None = None  # of each, where the text is annotated
    dropped: int = 0  # spans that lie in no single text
    second: list[bool] | None = None  # of a dialogue: whether the second speaker's


def texts_of(fragment: Fragment, recipe: Recipe) -> Texts:
    """The texts of a fragment, read by the recipe.

    Raises:
        UserError: the fragment is not UTF-8, not JSON, or not what the recipe expects.
    """
    language, errors = fragment.language or recipe.languages[0], recipe.errors
    if recipe.annotated:
        return annotated_of(fragment, language, errors)
    if recipe.dialogues:
        found = turns_of(fragment, errors)
    elif recipe.verbatim:
        found = verbatim_of(fragment, errors)
    else:
        found = sentences_of(fragment, language, errors)
    if recipe.chinese != "as_is" and primary(language) == "zh":
        found = found._replace(texts=list(map(converter(recipe.chinese), found.texts)))
    return found


def lines_are_sentences(source: Source, sentences: Sentences, language: str) -> bool:
    """Whether lines are kept whole; "auto" looks at the first 64 KiB of a `.txt`.

    They are sentences if the splitter finds at most 1.1 in a line on average. Other
    sources are split, except CoNLL's and records that are lists of sentences.
    """
    if source.kind == "conll":
        return True
    if sentences != "auto":
        return sentences == "lines"
    if source.kind not in ("txt", "pku"):
        return False
    with open_source(source) as stream:
        head = stream.unpacked.read(documents.FRAGMENT)
    text = head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8", "replace")
    lines = text.split("\n")
    if source.kind == "pku":
        lines = [each.text for each in _read(source.name, read_pku, lines)]
    counts = [count for line in lines if (count := len(_split(language, line)))]
    return bool(counts) and sum(counts) <= PARAGRAPHS * len(counts)


def sentences_of(fragment: Fragment, language: str, errors: Errors = "strict") -> Texts:
    """The sentences of a fragment."""
    text, replaced = _decoded(fragment, errors)
    if fragment.form == "json":
        content = _text_of_record(fragment, text)
        if isinstance(content, list):
            return Texts([s for each in content if (s := each.strip())], replaced)
        text = content
    lines = [piece for line in text.split("\n") for piece in _pieces(line)]
    if fragment.lines:
        return Texts([line.strip() for line in lines if line.strip()], replaced)
    return Texts([s for line in lines for s in _split(language, line)], replaced)


def verbatim_of(fragment: Fragment, errors: Errors = "strict") -> Texts:
    """The text of a fragment as it stands, in pieces of at most `FRAGMENT` bytes.

    "\\r\\n" is read as "\\n"; a list of sentences has one a line.
    """
    text, replaced = _decoded(fragment, errors)
    if fragment.form == "json":
        content = _text_of_record(fragment, text)
        text = content if isinstance(content, str) else "\n".join([*content, ""])
        if text.isspace():
            return Texts([], replaced)
    data = text.replace("\r\n", "\n").encode()
    pieces, at = [], 0
    while len(data) - at > documents.FRAGMENT:
        end = cut_verbatim(data, at, at + documents.FRAGMENT)
        pieces.append(data[at:end])
        at = end
    pieces.append(data[at:])
    return Texts([piece.decode() for piece in pieces if piece], replaced)


def turns_of(fragment: Fragment, errors: Errors = "strict") -> Texts:
    """The turns of a dialogue, without empty ones.

    Raises:
        UserError: the record is no dialogue of two speakers and at least two turns.
    """
    line, replaced = _decoded(fragment, errors)
    turns, where = _field(fragment, line, "turns")
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where} has no "turns", a list of what is said')
    said = [_turn(turn, str(i % 2), where) for i, turn in enumerate(turns)]
    if len({isinstance(turn, str) for turn in turns}) > 1:
        raise UserError(f"{where} names the speakers of some turns only")
    said = [(speaker, text) for speaker, text in said if text]
    speakers = list(dict.fromkeys(speaker for speaker, _ in said))
    if len(speakers) > 2:
        raise UserError(f"{where} has {len(speakers)} speakers: a dialogue has two")
    if len(said) < 2:
        raise UserError(f"{where} has {len(said)} turns: a dialogue has two or more")
    texts = [text for _, text in said]
    return Texts(texts, replaced, second=[who != speakers[0] for who, _ in said])


def _turn(turn: Any, speaker: str, where: str) -> tuple[str, str]:
    match turn:
        case str(text):
            pass
        case {"speaker": str(speaker), "text": str(text)}:
            pass
        case _:
            raise UserError(
                f'{where} has a turn that is neither a string nor {{"speaker", "text"}}'
            )
    return speaker, _without_surrogates(text).strip()


def annotated_of(fragment: Fragment, language: str, errors: Errors = "strict") -> Texts:
    """The sentences of annotated text, with their spans; no sentence ends in a span.

    Raises:
        UserError: a line is not annotated in the format that the fragment has.
    """
    text, replaced = _decoded(fragment, errors)
    if fragment.form == "pku":
        lines = (line for line in text.split("\n") if line.strip())
        found = _read(fragment.source, read_pku, lines)
    else:
        rows = (
            [
                r
                for r in each.split("\n")
                if r.strip() and not r.startswith(DOCUMENT_START)
            ]
            for each in _CONLL_SENTENCE_END.split(text)
        )
        found = _read(fragment.source, read_conll, filter(None, rows))
    texts: list[str] = []
    spans: list[list[Span]] = []
    dropped = 0
    for line in found:
        dropped += line.dropped
        begins = [0] if fragment.lines else _begins(line, language)
        ends = [*begins[1:], len(line.text)]
        texts += [line.text[a:b] for a, b in zip(begins, ends, strict=True)]
        inside: list[list[Span]] = [[] for _ in begins]
        for start, end, kind in line.spans:
            i = bisect.bisect_right(begins, start) - 1
            inside[i].append(Span(start - begins[i], end - begins[i], kind))
        spans += inside
    return Texts(texts, replaced, spans, dropped)


def _begins(line: Annotated, language: str) -> list[int]:
    """Where the sentences of a line begin: where the splitter says, but in no span."""
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
    """A line; where it is longer than a fragment (in a record), its parts."""
    while len(line) > documents.FRAGMENT:
        end = max(line.rfind(" ", 0, documents.FRAGMENT), 0) or documents.FRAGMENT
        yield line[:end]
        line = line[end:]
    yield line


def _split(language: str, line: str) -> list[str]:
    if not line or line.isspace():
        return []
    found = (sentence.strip() for sentence in sentencex.segment(language, line))  # pyrefly: ignore
    return [sentence for sentence in found if sentence]


def _decoded(fragment: Fragment, errors: Errors) -> tuple[str, int]:
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


def _field(fragment: Fragment, line: str, name: str) -> tuple[Any, str]:
    """A field of a record, None where it is missing; and how to name the record."""
    where = f"{fragment.source}: the record at byte {fragment.offset}"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    return record.get(name) if isinstance(record, dict) else None, where


def _text_of_record(fragment: Fragment, line: str) -> str | list[str]:
    text, where = _field(fragment, line, "text")
    match text:
        case str():
            return _without_surrogates(text)
        case list() if all(isinstance(each, str) for each in text):
            return [_without_surrogates(each) for each in text]
    raise UserError(f'{where} has no "text" that is a string or a list of them')


def _without_surrogates(text: str) -> str:
    """The text with U+FFFD for half characters, which JSON can spell ("\\ud800")."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
