"""A text → its words, phrases and entities, as spans of characters → marks of tokens.

ERNIE 1.0 took its units from a lexer that was never released (PaddlePaddle/ERNIE#57,
#224). Here a library, a list or the annotations of the text give them; a new library
has to be a `Finder`.

    libraries.py   rjieba (Chinese), spaCy (any language that it has a model for)
    lexicon.py     a user's list of entities, longest match
    annotated.py   annotated text: word/tag, CoNLL's columns
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
