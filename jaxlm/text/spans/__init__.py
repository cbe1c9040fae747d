"""A text → its words, phrases and entities, as spans of characters → marks of tokens.

ERNIE 1.0 took its units from a lexer that was never released (PaddlePaddle/ERNIE#57,
#224). Here a library or a list (`finders.py`) or the annotations of the text
(`annotated.py`) give them. A new library has to be a `marks.Finder`.
"""
