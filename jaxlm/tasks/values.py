"""A task's file → lines, JSON, texts and labels: one way for all forms.

A line ends at LF or CRLF, in a file without LF at CR, and nowhere else: U+0085, U+2028
and form feeds are text. A text is a string; a label may also be a number or a boolean.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from jaxlm.config import checks
from jaxlm.text.sources import once
from jaxlm.types import UserError

# Invisible characters that belong to no text at whose edge they are.
ZERO_WIDTH = "\u200b\u200e\u200f\u2060\ufeff"
_EDGES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + ZERO_WIDTH
_TYPES = {bool: "a boolean", int: "a number", float: "a number", list: "a list"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def lines_of(content: str) -> list[str]:
    """The lines of a file, without their ends."""
    end = "\n" if "\n" in content else "\r"
    return [line.rstrip("\r") for line in content.split(end)]


def parse(where: str, text: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON: {error}") from None


def trimmed(text: str) -> str:
    """The text without white space and invisible characters at its edges."""
    return text.strip(_EDGES)


def is_number(text: str) -> bool:
    """Whether a text is a decimal number."""
    return bool(_NUMBER.fullmatch(text))


def text_of(where: str, name: str, value: Any) -> str:
    """A value that is a text; "" for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = _TYPES.get(type(value), "an object")
        raise UserError(f"{where}: {name} is {kind} and no text: {str(value)[:60]}")
    return checks.text_of(value, f"{where}: {name}")


def label_of(where: str, name: str, value: Any) -> str:
    """A value that is a label; equal numbers are one label."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {name} is {value}, no finite number")
    if isinstance(value, int | float):
        return str(value)
    label = trimmed(text_of(where, name, value))
    if not label:
        raise UserError(f"{where}: an empty {name}")
    if "\t" in label or "\n" in label:
        raise UserError(f"{where}: {name} has a tab or line end in it: {label[:60]!r}")
    return label


def check_distinct(labels: Iterable[str], path: str) -> None:
    """Raise UserError if two labels are the same number or differ only in case."""
    alike: dict[str, str] = {}
    for each in sorted(labels):
        key = str(float(each)) if is_number(each) else each.casefold()
        if alike.setdefault(key, each) != each:
            this = f"{alike[key]!r} and {each!r} would be two classes"
            remedy = "write both one way, or name the classes by --task.labels"
            raise UserError(f"{path}: {this}: {remedy}")
