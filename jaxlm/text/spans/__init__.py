"""A text → its words, phrases and entities, as spans of characters → marks of tokens.

ERNIE 1.0 took its units from a lexer that was never released (PaddlePaddle/ERNIE#57,
#224). Here units come from a library or a list (`finders.py`), or from annotated text
(`annotated.py`). To add a library, write a `marks.Finder`.
"""
