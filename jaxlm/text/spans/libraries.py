"""Libraries that find spans, by name; each is imported only if it is named."""

import difflib

from jaxlm.text.recipe import ANNOTATED
from jaxlm.text.spans.kinds import Finder, Kind, Span
from jaxlm.text.spans.lexicon import read_lexicon
from jaxlm.types import UserError

# jieba's tags of names (persons, places, organisations, others), and of words that are
# no phrase however long they are (punctuation, what is not Chinese, numbers).
_NAMES = ("nr", "ns", "nt", "nz")
_NO_PHRASE = ("x", "eng", "m")
SPACY_MODEL = "en_core_web_sm"


def open_finders(spans: str, lexicon: str) -> list[Finder]:
    """What finds spans, the user's list first: its spans win over overlapping ones.

    Args:
        spans: "none", "rjieba", "spacy", "spacy:MODEL", or a kind of annotated text.
        lexicon: file of the user's entities; empty: none.

    Raises:
        UserError: the name is unknown, or needs a library that is not installed.
    """
    finders: list[Finder] = []
    if lexicon:
        finders.append(read_lexicon(lexicon))
    match spans.partition(":"):
        case "rjieba", "", "":
            finders.append(rjieba())
        case "spacy", _, model:
            finders.append(spacy(model or SPACY_MODEL))
        case name, "", "" if name == "none" or name in ANNOTATED:
            pass
        case _:
            known = ["none", "rjieba", "spacy", *ANNOTATED]
            near = difflib.get_close_matches(spans, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"--spans {spans} is none of {', '.join(known)}, spacy:MODEL{hint}"
            )
    return finders


def rjieba() -> Finder:
    """Chinese: phrases are words of two characters or more, entities are names.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from rjieba import tag
    except ImportError:
        raise UserError(
            "--spans rjieba needs a library: pip install 'jaxlm[zh]' (or rjieba)"
        ) from None

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
                if kind.startswith(_NAMES):
                    spans.append((start, at, "entity"))
        return spans

    return find


def spacy(model: str = SPACY_MODEL) -> Finder:
    """Named entities, and noun chunks as phrases where spaCy has a rule for them.

    Args:
        model: name of an installed pipeline, or the directory of one.

    Raises:
        UserError: the library or the model is not installed, or the model finds
            neither entities nor noun chunks.
    """
    try:
        from spacy import load  # pyrefly: ignore
    except ImportError:
        raise UserError(
            "--spans spacy needs a library and a model: pip install 'jaxlm[en]' "
            f"(or spacy); python -m spacy download {model}"
        ) from None
    try:
        nlp = load(model, exclude=["lemmatizer"])
    except OSError:
        raise UserError(
            f"spaCy finds no model {model}: python -m spacy download {model}; or name "
            "the directory of one, --spans spacy:DIRECTORY"
        ) from None
    sets = {each for name in nlp.pipe_names for each in nlp.get_pipe_meta(name).assigns}
    chunks = "token.dep" in sets and "noun_chunks" in nlp.Defaults.syntax_iterators
    if not chunks and "doc.ents" not in sets:
        parts = ", ".join(nlp.pipe_names) or "no component"
        raise UserError(
            f"spaCy's model {model} has {parts}: it needs a parser, for noun chunks, "
            "or ner or entity_ruler, for entities"
        )

    def find(text: str) -> list[Span]:
        doc = nlp(text)
        spans = [Span(e.start_char, e.end_char, "entity") for e in doc.ents]
        if chunks:
            spans += [Span(c.start_char, c.end_char, "phrase") for c in doc.noun_chunks]
        return spans

    return find
