"""BERT's tokenizer as google-research/bert `tokenization.py` (eedf571) describes it.

Written from the description alone, character by character, to check the fast one.
"""

import unicodedata

CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_space(char):
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def is_control(char):
    return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def is_punctuation(char):
    code = ord(char)
    for low, high in ((33, 47), (58, 64), (91, 96), (123, 126)):
        if low <= code <= high:
            return True
    return unicodedata.category(char)[0] == "P"


def clean(text):
    out = ""
    for char in text:
        if ord(char) in (0, 0xFFFD) or is_control(char):
            continue
        out += " " if is_space(char) else char
    return out


def space_ideographs(text):
    out = ""
    for char in text:
        inside = any(low <= ord(char) <= high for low, high in CJK)
        out += f" {char} " if inside else char
    return out


def strip_accents(text):
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def split_punctuation(word):
    out, new = [], True
    for char in word:
        if is_punctuation(char):
            out.append([char])
            new = True
        else:
            if new:
                out.append([])
            new = False
            out[-1].append(char)
    return ["".join(each) for each in out]


def basic(text, lower):
    words = []
    for word in space_ideographs(clean(text)).strip().split():
        if lower:
            word = strip_accents(word.lower())
        words += split_punctuation(word)
    return " ".join(words).strip().split()


def wordpiece(word, vocabulary):
    if len(word) > 200:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


def tokenize(text, vocabulary, lower):
    """(ids, word starts) of a text; `vocabulary` maps pieces to ids."""
    ids, starts = [], []
    for word in basic(text, lower):
        pieces = wordpiece(word, vocabulary)
        ids += [vocabulary[piece] for piece in pieces]
        starts += [i == 0 for i in range(len(pieces))]
    return ids, starts
