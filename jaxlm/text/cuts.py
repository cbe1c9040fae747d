"""Where a text that is too long for one piece is cut: bytes in, a place out.

`cut`, between sentences' words: after a line end, else after a space, else (a longer
word) after a character.

`cut_verbatim`, where byte-level BPE cuts too, so that the pieces' tokens are the whole
text's. GPT-2's pattern ends a token behind a line end that stands alone between text,
and before the last of any white space, whatever else is there:

    … text ↵ | text …     … text ↵ | ↵ text …     … text ␣ | ␣ text …     … text | ␣ …

Only in a word as long as a piece is there no such place.
"""

from __future__ import annotations

import re

_SPACE = re.compile(rb".*[ \t\r\x0b\x0c]", re.DOTALL)

# White space as Unicode has it, in UTF-8; of each alternative one length, for (?<!…).
_WHITE = (
    rb"[\t-\r\x1c- ]",
    rb"\xc2[\x85\xa0]",
    rb"\xe1\x9a\x80",
    rb"\xe2\x80[\x80-\x8a\xa8\xa9\xaf]",
    rb"\xe2\x81\x9f",
    rb"\xe3\x80\x80",
)
_AFTER_TEXT = b"".join(rb"(?<!%b)" % white for white in _WHITE)
_BEFORE_TEXT = rb"(?!" + b"|".join(_WHITE) + rb")"
_LINE_END = re.compile(_AFTER_TEXT + rb"\r?\n" + _BEFORE_TEXT)
_SPACES = (b"\n", b" ", b"\xe3\x80\x80")  # those looked for, of all there are
_LAST_SPACE = re.compile(rb"(?:" + b"|".join(_SPACES) + rb")" + _BEFORE_TEXT)


def cut(text: bytes, at: int, end: int) -> int:
    """Where text[at:end] is best cut; text[end] is there."""
    line = text.rfind(b"\n", at, end)
    if line >= 0:
        return line + 1
    if space := _SPACE.match(text, at, end):
        return space.end()
    return _character(text, end)


def cut_verbatim(text: bytes, at: int, end: int) -> int:
    """Where text[at:end] is cut so that no token of it or of the rest changes.

    Three bytes behind the end are there, as long as a space may be, or it is the last.
    """
    line = end
    while (line := text.rfind(b"\n", at + 1, line)) >= 0:
        if _LINE_END.match(text, line - (text[line - 1] == ord("\r"))):
            return line + 1
    for space in _SPACES:
        place = end
        while (place := text.rfind(space, at + 1, place)) >= 0:
            before = _before_line_end(text, place)
            if before > at and _LAST_SPACE.match(text, place):
                return before
    return _before_line_end(text, _character(text, end))


def _before_line_end(text: bytes, place: int) -> int:
    """`place`, but not between "\\r" and "\\n"."""
    return place - (text[place - 1 : place + 1] == b"\r\n")


def _character(text: bytes, end: int) -> int:
    for back in range(4):  # a character of UTF-8 has at most 4 bytes
        if text[end - back] & 0xC0 != 0x80:
            return end - back
    return end
