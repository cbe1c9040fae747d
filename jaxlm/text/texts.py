"""A fragment of a document → the texts to tokenise.

    sentences       without the white space around them
    verbatim        for decoders: the unchanged text, in pieces
    dialogues       turns, each a sentence, and their speakers
    annotated       sentences with their spans (`spans/annotated.py`)

A dialogue is a line of `.jsonl` and a document of the corpus. If the speakers have no
names, they alternate:

    {"turns": ["How old are you?", "8.", "Where is your home?"]}
    {"turns": [{"speaker": "A", "text": "Hello?"}, {"speaker": "A", "text": "Oh!"}, …]}

Next: `units.py`.
"""

import bisect
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sentencex

from jaxlm.config.checks import optional
from jaxlm.text import documents
from jaxlm.text.documents import DOCUMENT_START, Fragment, cut_verbatim
from jaxlm.text.recipe import Errors, Recipe
from jaxlm.text.sources import Source, no_field, once, open_source
from jaxlm.text.spans.annotated import Annotated, read_conll, read_pku
from jaxlm.text.spans.marks import Span
from jaxlm.text.wiki import plain_text
from jaxlm.types import UserError

# The lines of a file are paragraphs if its head has more sentences a line than this.
# Splitting a file of single sentences again does little harm, the reverse does.
PARAGRAPHS = 1.1

_CONLL_SENTENCE_END = re.compile(r"\n[ \t\r]*(?=\n)")


class Texts(NamedTuple):
    """The texts of a fragment that are tokenised."""

    texts: list[str]
    spans: Sequence[list[Span]] = ()  # of each, where the text is annotated
    dropped: int = 0  # spans that lie in no single text
    second: Sequence[bool] = ()  # of a dialogue: whether the second speaker's
    replaced: int = 0  # byte sequences that were not UTF-8


def texts_of(fragment: Fragment, recipe: Recipe) -> Texts:
    """The texts of a fragment, as the recipe says."""
    language = fragment.source.language or recipe.languages[0]
    text, replaced = _decoded(fragment, recipe.errors)
    if recipe.annotated:
        return _annotated(fragment, text, language)._replace(replaced=replaced)
    if recipe.dialogues:
        found = _turns(fragment, text)
    else:
        match fragment.source.kind:
            case "jsonl" | "csv" | "parquet":
                content = _text_of_record(fragment, text)
            case "wiki":
                plain = plain_text(text, fragment.source.name)
                content = _without_surrogates(plain)  # of "&#xd800;"
            case _:
                content = text
        if recipe.verbatim:
            found = Texts(_verbatim(content))
        else:
            found = Texts(_sentences(content, fragment.source.lines, language))
    if recipe.chinese != "as_is" and primary(language) == "zh":
        found = found._replace(texts=list(map(converter(recipe.chinese), found.texts)))
    return found._replace(replaced=replaced)


def lines_are_sentences(source: Source, recipe: Recipe) -> bool:
    """Whether each line is a sentence; "auto" decides by the first 64 KiB of a `.txt`.

    Lines are sentences if the splitter finds at most 1.1 per line on average. Lines of
    other sources are split, except CoNLL's and lists of sentences.
    """
    if recipe.verbatim or source.kind == "conll":
        return True
    if recipe.sentences != "auto":
        return recipe.sentences == "lines"
    if source.kind not in ("txt", "pku"):
        return False
    with open_source(source) as (unpacked, _):
        head = unpacked.read(documents.FRAGMENT)
    text = head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8", "replace")
    lines = text.split("\n")
    if source.kind == "pku":
        lines = [each.text for each in _read_annotated(source, text)]
    language = source.language or recipe.languages[0]
    counts = [count for line in lines if (count := len(_split(language, line)))]
    return bool(counts) and sum(counts) <= PARAGRAPHS * len(counts)


def primary(language: str) -> str:
    """The language without its script or region: zh for zh-Hant."""
    return language.split("-")[0]


@functools.cache
def converter(chinese: str) -> Callable[[str], str]:
    """A function that converts Chinese to "simplified" or "traditional" characters."""
    use, package = f"text.chinese = {chinese}", "'jaxlm[zh]' (or opencc)"
    opencc = optional("opencc", use, package)
    return opencc.OpenCC({"simplified": "t2s", "traditional": "s2t"}[chinese]).convert


def _sentences(content: str | list[str], whole: bool, language: str) -> list[str]:
    if not isinstance(content, str):
        return _stripped(content)
    lines = (piece for line in content.split("\n") for piece in _pieces(line))
    if whole:
        return _stripped(lines)
    return [sentence for line in lines for sentence in _split(language, line)]


def _pieces(line: str) -> Iterator[str]:
    """The line; if it is longer than a fragment (in a record), its parts."""
    while len(line) > documents.FRAGMENT:
        end = max(line.rfind(" ", 0, documents.FRAGMENT), 0) or documents.FRAGMENT
        yield line[:end]
        line = line[end:]
    yield line


def _split(language: str, line: str) -> list[str]:
    if not line or line.isspace():
        return []
    return _stripped(sentencex.segment(language, line))  # pyrefly: ignore


def _stripped(texts: Iterable[str]) -> list[str]:
    return [stripped for text in texts if (stripped := text.strip())]


def _verbatim(content: str | list[str]) -> list[str]:
    """The unchanged text in pieces of at most `FRAGMENT` bytes.

    "\\r\\n" is read as "\\n"; each sentence of a list gets its own line.
    """
    text = content if isinstance(content, str) else "\n".join([*content, ""])
    data = text.replace("\r\n", "\n").encode()
    pieces, at = [], 0
    while at < len(data):
        end = at + documents.FRAGMENT
        end = cut_verbatim(data, at, end) if end < len(data) else len(data)
        pieces.append(data[at:end].decode())
        at = end
    return pieces


def _turns(fragment: Fragment, line: str) -> Texts:
    """The non-empty turns of a dialogue: at least two, by at most two speakers."""

    def wrong(what: str) -> UserError:
        return UserError(f"{fragment.where()} {what}")

    turns = _field(fragment, line)
    if not isinstance(turns, list) or not turns:
        raise wrong(f'has no "{fragment.source.field}" that is a list of what is said')
    said: list[tuple[str, str]] = []
    for i, turn in enumerate(turns):
        match turn:
            case str(text):
                speaker = str(i % 2)
            case {"speaker": str(speaker), "text": str(text)}:
                pass
            case _:
                form = '{"speaker", "text"}'
                raise wrong(f"has a turn neither a string nor {form}")
        if text := _without_surrogates(text).strip():
            said.append((speaker, text))
    if len({isinstance(turn, str) for turn in turns}) > 1:
        raise wrong("names the speakers of some turns only")
    speakers = list(dict.fromkeys(speaker for speaker, _ in said))
    if len(speakers) > 2:
        raise wrong(f"has {len(speakers)} speakers: a dialogue has two")
    if len(said) < 2:
        raise wrong(f"has {len(said)} turns: a dialogue has two or more")
    second = [speaker != speakers[0] for speaker, _ in said]
    return Texts([text for _, text in said], second=second)


def _annotated(fragment: Fragment, text: str, language: str) -> Texts:
    """The sentences with their spans; no sentence ends within a span."""
    texts: list[str] = []
    spans: list[list[Span]] = []
    dropped = 0
    for line in _read_annotated(fragment.source, text):
        dropped += line.dropped
        begins = [0] if fragment.source.lines else _begins(line, language)
        ends = [*begins[1:], len(line.text)]
        texts += [line.text[a:b] for a, b in zip(begins, ends, strict=True)]
        inside: list[list[Span]] = [[] for _ in begins]
        for start, end, kind in line.spans:
            i = bisect.bisect_right(begins, start) - 1
            inside[i].append(Span(start - begins[i], end - begins[i], kind))
        spans += inside
    return Texts(texts, spans, dropped)


def _read_annotated(source: Source, text: str) -> Iterator[Annotated]:
    """The lines (pku) or sentences (conll) of annotated text."""
    try:
        if source.kind == "pku":
            yield from (read_pku(line) for line in text.split("\n") if line.strip())
        else:
            for each in _CONLL_SENTENCE_END.split(text):
                rows = [row for row in each.split("\n") if row.strip()]
                rows = [row for row in rows if not row.startswith(DOCUMENT_START)]
                if rows:
                    yield read_conll(rows)
    except ValueError as error:
        raise UserError(f"{source.name}: {error}; see --spans") from None


def _begins(line: Annotated, language: str) -> list[int]:
    """The starts of a line's sentences: those of the splitter that are in no span."""
    begins, at = [], 0
    for sentence in _split(language, line.text):
        begins.append(line.text.index(sentence, at))
        at = begins[-1] + len(sentence)
    for start, end, _ in line.spans:
        first = bisect.bisect_right(begins, start)
        del begins[first : bisect.bisect_left(begins, end, first)]
    return begins


def _decoded(fragment: Fragment, errors: Errors) -> tuple[str, int]:
    """(the text of a fragment, the number of byte sequences that were replaced)."""
    try:
        text = fragment.data.decode("utf-8")
        return text.removeprefix("\ufeff") if fragment.offset == 0 else text, 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            this = f"byte 0x{fragment.data[error.start]:02x} is not UTF-8"
            remedy = "convert the file, or go on with --errors replace"
            where = fragment.where(error.start)
            raise UserError(f"{where}: {this}; {remedy}") from None
    text = fragment.data.decode("utf-8", "replace")
    return text, text.count("\ufffd") - fragment.data.count(b"\xef\xbf\xbd")


def _field(fragment: Fragment, line: str) -> Any:
    """The field of a record that the source names."""
    try:
        record = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(": line")[0]
        raise UserError(f"{fragment.where()} is not JSON: {reason}") from None
    if not isinstance(record, dict):
        raise UserError(f"{fragment.where()} is not a JSON object")
    if fragment.source.field not in record:
        raise no_field(fragment.where(), fragment.source.field, record)
    return record[fragment.source.field]


def _text_of_record(fragment: Fragment, line: str) -> str | list[str]:
    """The text of a record or its list of sentences; "" if all is white space."""
    text = _field(fragment, line)
    parts = text if isinstance(text, list) else [text]
    if not all(isinstance(part, str) for part in parts):
        shown = json.dumps(text, ensure_ascii=False)[:60]
        this = f'"{fragment.source.field}" is {shown}'
        kinds = "neither a string nor a list of strings"
        raise UserError(f"{fragment.where()}: {this}, {kinds}")
    parts = list(map(_without_surrogates, parts))
    if not "".join(parts).strip():
        return ""
    return parts[0] if isinstance(text, str) else parts


def _without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which JSON can contain ("\\ud800")."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
