"""A text → its words, phrases and entities, as spans of characters → marks of tokens.

What finds spans is a library, a list, or whoever annotated the text: `Finder` is all
that a new library has to be. ERNIE 1.0 took its units from a lexer that was never
released (PaddlePaddle/ERNIE#57, #224); a user's own notion of an entity is a file of
them.

    libraries.py   rjieba (Chinese), spaCy (whatever it has a model for)
    lexicon.py     the user's list, longest match
    annotated.py   text that says itself: word/tag, CoNLL's columns
    marks.py       spans of characters → marks of tokens
"""

from jaxlm.text.spans.annotated import Annotated, read_conll, read_pku
from jaxlm.text.spans.kinds import Finder, Kind, Span
from jaxlm.text.spans.lexicon import Lexicon, lexicon_sha256, read_lexicon
from jaxlm.text.spans.libraries import open_finders, rjieba, spacy
from jaxlm.text.spans.marks import Marked, cuts, mark_spans

__all__ = [
    "Annotated",
    "Finder",
    "Kind",
    "Lexicon",
    "Marked",
    "Span",
    "cuts",
    "lexicon_sha256",
    "mark_spans",
    "open_finders",
    "read_conll",
    "read_lexicon",
    "read_pku",
    "rjieba",
    "spacy",
]
