"""Text with annotated words, phrases and entities → text and spans.

*pku*, the People's Daily of Peking University: a line is a paragraph, with groups in
brackets if it is the edition of 2003:

    江/nr  泽民/nr  在/p  [香港/ns  特别/a  行政区/n]ns  讲话/v
    `-entity------'        `-entity------------------'

*conll*: a line is a word and its columns, with a blank line after each sentence. All
columns of B-X, I-X … are read, in any of the schemes IOB1, IOB2, BIOES, BILOU, BMES. A
chunk of the shared task of 2000 is a phrase; any other unit is an entity:

    Rockwell       NNP  B-NP
    International  NNP  I-NP
    said           VBD  B-VP

Columns are cut at tabs or, in a line without tabs, at spaces; a no-break space is part
of a word. A unit inside another unit of the same kind is ignored. The files do not say
where white space was: words are joined, with a space between words that would run
together.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxlm.text.spans.marks import Kind, Span, joins

# An opening bracket belongs to a group if a word follows; "//w" is a slash.
_ITEM = re.compile(r"(\[*)(\S+?)/([A-Za-z]+)((?:\]/?[A-Za-z]+)*)")
_TAG = re.compile(r"[A-Za-z]+")
NAMES = ("nr", "ns", "nt", "nz")  # persons, places, organisations, others
_NO_PHRASE = ("m", "w", "nx")  # numbers, punctuation, what is not Chinese
_SURNAME = 2  # characters, at most

# Universal Dependencies' lines before a sentence: "# sent_id = 7", "# newdoc".
_COMMENT = re.compile(r"# (?:\S+ = |newdoc\b|newpar\b|id )")
_UNIT = re.compile(r"([BIMESLU])-(\S+)")
# Tjong Kim Sang & Buchholz 2000.
_CHUNKS = re.compile("ADJP|ADVP|CONJP|INTJ|LST|NP|PP|PRT|SBAR|UCP|VP")

Bounds = tuple[int, int]  # [first, end)
Units = Iterable[Bounds]


class Annotated(NamedTuple):
    """The text of a line and its spans; spans of the same kind do not overlap.

    Lines that are not in the format raise `ValueError`.
    """

    text: str
    spans: list[Span]
    dropped: int = 0  # groups that begin or end outside of the line


def read_pku(line: str) -> Annotated:
    """The text and spans of a line of tagged words and groups.

    Entities are words and groups tagged as names; a surname and the given name after
    it are one entity. Phrases are groups, names, and words of two characters or more.
    """
    words: list[str] = []
    tags: list[str] = []
    phrases: list[Bounds] = []
    names: list[Bounds] = []
    opened: list[int] = []
    dropped = 0
    for item in line.split():
        parts = _ITEM.fullmatch(item)
        if parts is None:
            raise ValueError(f"{item!r} is no word/tag")
        opening, word, tag, closing = parts.groups()
        opened += [len(words)] * len(opening)
        words.append(word)
        tags.append(tag)
        for group in _TAG.findall(closing):
            if not opened:
                dropped += 1
                continue
            phrases.append((opened.pop(), len(words)))
            if group.lower().startswith(NAMES):
                names.append(phrases[-1])
    given = -1  # the word that is a given name
    for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
        if tag.startswith(NAMES):
            person = tag == "nr" and tags[i + 1 : i + 2] == ["nr"] and i != given
            if person and len(word) <= _SURNAME:
                given = i + 1
                names.append((i, i + 2))
                phrases.append((i, i + 2))
            names.append((i, i + 1))
        if len(word) > 1 and tag not in _NO_PHRASE:
            phrases.append((i, i + 1))
    return _annotated(words, phrases, names)._replace(dropped=dropped + len(opened))


def read_conll(lines: Iterable[str]) -> Annotated:
    """The text and spans of a sentence in CoNLL's columns."""
    rows = [row for line in lines if (row := columns_of(line))]
    for row in rows:
        if len(row) < 2 or not row[0]:
            raise ValueError(f"{row[0]!r} has no column of tags beside it")
    bounds: dict[bool, list[Bounds]] = {True: [], False: []}
    for column in range(1, max(map(len, rows), default=1)):
        cells = (row[column] if column < len(row) else "" for row in rows)
        for first, end, label in _units([_UNIT.fullmatch(cell) for cell in cells]):
            bounds[bool(_CHUNKS.fullmatch(label))].append((first, end))
    words = [row[0] for row in rows]
    # If each line is a character, a space would cut numbers and words.
    spelled = all(len(word) == 1 for word in words) and not "".join(words).isascii()
    return _annotated(words, bounds[True], bounds[False], spelled)


def columns_of(line: str) -> list[str]:
    """The columns of a line; none in a blank line or a comment."""
    line = line.rstrip(" \t\r")
    if not line or _COMMENT.match(line):
        return []
    return line.split("\t") if "\t" in line else re.findall("[^ ]+", line)


def _units(cells: Sequence[re.Match | None]) -> Iterable[tuple[int, int, str]]:
    """(first, end, label) of each unit in a column."""
    first, label = 0, None
    for i, cell in enumerate([*cells, None]):
        scheme, name = cell.groups() if cell else ("O", None)
        begins = cell and (scheme in "BSU" or name != label)
        if label is not None and (cell is None or begins):
            yield first, i, label
            label = None
        if begins:
            first, label = i, name
        if label is not None and scheme in "ESLU":
            yield first, i + 1, label
            label = None


def _annotated(
    words: Sequence[str], phrases: Units, entities: Units, spelled: bool = False
) -> Annotated:
    """The text and spans of words (if `spelled`, of characters); bounds count words."""
    text, begins = "", []
    for word in words:
        if text and not spelled and joins(text[-1]) and joins(word[0]):
            text += " "
        begins.append(len(text))
        text += word
    kinds: dict[Kind, Units] = {
        "word": () if spelled else ((i, i + 1) for i in range(len(words))),
        "phrase": _outermost(phrases),
        "entity": _outermost(entities),
    }
    spans = [
        Span(begins[first], begins[end - 1] + len(words[end - 1]), kind)
        for kind, bounds in kinds.items()
        for first, end in bounds
    ]
    return Annotated(text, spans)


def _outermost(bounds: Units) -> Units:
    stop = 0
    for first, end in sorted(bounds, key=lambda each: (each[0], -each[1])):
        if first >= stop:
            yield first, end
            stop = end
