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
_SAME = {"M": "I", "L": "E", "U": "S"}  # other schemes' letters for I, E and S
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
            raise ValueError(f"{item!r} is not word/tag")
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
        cells = [row[column] if column < len(row) else "" for row in rows]
        for first, end, kind in entities(cells):
            bounds[bool(_CHUNKS.fullmatch(kind))].append((first, end))
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


class Entity(NamedTuple):
    """An entity: words `start` … `end` - 1 of a sentence."""

    start: int
    end: int
    kind: str


def entity_tag(tag: str) -> tuple[str, str] | None:
    """B-ORG → ("B", "ORG"), O → ("O", ""); None for tags in another format."""
    if tag == "O":
        return "O", ""
    place, dash, kind = tag[:1], tag[1:2], tag[2:]
    place = _SAME.get(place, place)
    if place not in tuple("BIES") or dash not in ("-", "_") or not kind:
        return None
    return place, kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order.

    An entity continues while tags of its kind follow that do not begin an entity. An I
    or E without a beginning begins an entity (seqeval's default; Tjong Kim Sang 2000).
    """
    found: list[Entity] = []
    place_before, kind_before = "O", ""
    for i, tag in enumerate(tags):
        place, kind = entity_tag(tag) or ("O", "")
        if kind and kind == kind_before and place in "IE" and place_before in "BI":
            found[-1] = found[-1]._replace(end=i + 1)
        elif kind:
            found.append(Entity(i, i + 1, kind))
        place_before, kind_before = place, kind
    return found


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
