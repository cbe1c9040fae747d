"""Finders of spans in plain text: libraries, by name, and a user's list of entities.

A library is imported only if it is used.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from jaxlm.config.checks import instead, optional
from jaxlm.text.recipe import ANNOTATED
from jaxlm.text.sources import read_lines
from jaxlm.text.spans.annotated import NAMES
from jaxlm.text.spans.marks import Finder, Kind, Span, cuts
from jaxlm.text.tokenizers.words import IDEOGRAPH
from jaxlm.types import UserError, plural

# jieba's tags of words that are no phrase however long they are: punctuation, what is
# not Chinese, numbers. Its tags of names are those of the People's Daily.
_NO_PHRASE = ("x", "eng", "m")
_SPACY_MODEL = "en_core_web_sm"
# A line of a jieba user dictionary, as jieba reads it: word, frequency, tag.
_JIEBA = re.compile(r"(.+?)( [0-9]+)?( [a-z]+)?")


def open_finders(spans: str, lexicon: str) -> list[Finder]:
    """The finders, with the user's list first: its spans win over overlapping spans.

    `spans` is "none", "rjieba", "spacy", "spacy:MODEL", or a kind of annotated text.
    """
    finders: list[Finder] = [read_lexicon(lexicon)] if lexicon else []
    match spans.partition(":"):
        case "rjieba", "", "":
            finders.append(_rjieba())
        case "spacy", _, model:
            finders.append(_spacy(model or _SPACY_MODEL))
        case name, "", "" if name == "none" or name in ANNOTATED:
            pass
        case _:
            known = "none", "rjieba", "spacy", *ANNOTATED, "spacy:MODEL"
            raise UserError(f"no --spans {spans}: {instead(spans, known)}")
    return finders


class Lexicon:
    """A finder of a user's entities: the longest entry at each place, left to right.

    Case matters; in scripts with spaces, only whole words are found.
    """

    def __init__(self, entries: Iterable[str], notes: Sequence[str] = ()):
        self.entries = tuple(dict.fromkeys(entries))
        self.notes = tuple(notes)  # what a user may want to know of its file
        self._entries = frozenset(self.entries)
        content = "\n".join(sorted(self._entries)).encode()
        self.sha256 = hashlib.sha256(content).hexdigest()  # whatever else a file holds
        lengths: dict[str, set[int]] = {}
        for entry in self._entries:
            lengths.setdefault(entry[0], set()).add(len(entry))
        self._lengths = {c: sorted(each, reverse=True) for c, each in lengths.items()}

    def __call__(self, text: str) -> list[Span]:
        """The spans in a text that are entries of the lexicon; they do not overlap."""
        if self._lengths.keys().isdisjoint(text):
            return []
        may_cut = cuts(text)
        spans, at = [], 0
        while at < len(text):
            for length in self._lengths.get(text[at], ()):
                end = at + length
                if text[at:end] in self._entries and may_cut[at] and may_cut[end]:
                    spans.append(Span(at, end, "entity"))
                    at = end - 1
                    break
            at += 1
        return spans


def read_lexicon(path: str) -> Lexicon:
    """The lexicon in a file with one entity in each line.

    Text after a tab is ignored (THUOCL has counts there). A file is a user dictionary
    of jieba's if at least half of its Chinese entries have a frequency or a tag after a
    space. Blank lines and repeated entries are left out, and noted.
    """
    lines = [line.split("\t")[0].strip() for line in read_lines(path)]
    parts = [match for line in lines if (match := _JIEBA.fullmatch(line))]
    chinese = [each[0] != each[1] for each in parts if IDEOGRAPH.search(each[1])]
    jieba = 0 < len(chinese) <= 2 * sum(chinese)
    entries = [each[1 if jieba else 0] for each in parts]
    if not entries:
        raise UserError(f"lexicon {path} is empty")
    cut = sum(each[0] != entry for each, entry in zip(parts, entries, strict=True))
    found = {
        "with a frequency or tag, as jieba's have, which is left out": cut,
        "left out as blank": len(lines) - len(parts),
        "repeated": len(entries) - len(set(entries)),
    }
    said = (f"{plural(n, 'line')} {what}" for what, n in found.items() if n)
    return Lexicon(entries, [f"lexicon {path}: {each}" for each in said])


def _rjieba() -> Finder:
    """A finder for Chinese: phrases are words of 2+ characters, entities are names."""
    tag = optional("rjieba", "--spans rjieba", "'jaxlm[zh]' (or rjieba)").tag

    def find(text: str) -> list[tuple[int, int, Kind]]:
        spans, at = [], 0
        for word, kind in tag(text):
            start, at = at, at + len(word)
            # A word of one character is one already, or none, to the tokenizer.
            if at - start == 1 or word.isspace():
                continue
            spans.append((start, at, "word"))
            if kind not in _NO_PHRASE:
                spans.append((start, at, "phrase"))
                if kind.startswith(NAMES):
                    spans.append((start, at, "entity"))
        return spans

    return find


def _spacy(model: str) -> Finder:
    """A finder of named entities and, if spaCy supports the language, noun chunks.

    `model` is the name or the directory of an installed pipeline.
    """
    package = f"'jaxlm[en]' (or spacy); python -m spacy download {model}"
    spacy = optional("spacy", "--spans spacy", package)
    try:
        nlp = spacy.load(model, exclude=["lemmatizer"])
    except OSError:
        way = f"python -m spacy download {model}; or name its directory"
        this = f"spaCy finds no model {model}: {way}, --spans spacy:DIRECTORY"
        raise UserError(this) from None
    sets = {each for name in nlp.pipe_names for each in nlp.get_pipe_meta(name).assigns}
    chunks = "token.dep" in sets and "noun_chunks" in nlp.Defaults.syntax_iterators
    if not chunks and "doc.ents" not in sets:
        parts = ", ".join(nlp.pipe_names) or "no component"
        needs = "a parser, for noun chunks, or ner or entity_ruler, for entities"
        raise UserError(f"spaCy's model {model} has {parts}: it needs {needs}")

    def find(text: str) -> list[Span]:
        doc = nlp(text)
        spans = [Span(e.start_char, e.end_char, "entity") for e in doc.ents]
        if chunks:
            spans += [Span(c.start_char, c.end_char, "phrase") for c in doc.noun_chunks]
        return spans

    return find
