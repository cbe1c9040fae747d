"""What a user gives, in Python or in a file → values of the right types, or one line.

The library's records, which are also the flags of its verbs, check themselves with
`check_fields` and `check_range`: Python and the command line say the same.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jaxlm.types import UserError

T = TypeVar("T")

_NAMES = {bool: "True or False", int: "a whole number", float: "a finite number"}
_NAMES |= {str: "a string"}
_UNIONS = (typing.Union, types.UnionType)
_MISFITS = (TypeError, ValueError, OverflowError)


def check_fields(record: Any, at: str = "") -> None:
    """Give each field of a frozen dataclass the type that it is declared with.

    Numbers of numpy become Python's, lists tuples, and a single string a tuple of one
    where several may stand. `at` is the prefix of the names in the error.
    """
    for name, kind in _kinds(type(record)).items():
        value = typed(kind, getattr(record, name), f"{at}{name}")
        object.__setattr__(record, name, value)


def typed(kind: Any, value: Any, name: str) -> Any:
    """A value as a `kind`, see `check_fields`; UserError if it is none."""
    try:
        return _as(kind, value)
    except _MISFITS:
        what, words = _described(kind)
        hint = meant(value, words)
        raise UserError(f"{name} = {shown(value)} is not {what}{hint}") from None


def check_range(config: Any, at: str, interval: str, *names: str) -> None:
    """Refuse a field outside an interval such as "[0, 1)" or "[1, inf)"; `at` is the
    prefix of the names in the error, such as "model.".
    """
    low, high = map(float, interval[1:-1].split(", "))
    for name in names:
        value = getattr(config, name)
        above = value > low or (value == low and interval[0] == "[")
        if above and (value < high or (value == high and interval[-1] == "]")):
            continue
        bound = f"is not in {interval}"
        if high == math.inf:
            bound = f"must be {'at least' if interval[0] == '[' else 'above'} {low:g}"
        raise UserError(f"{at}{name} = {value} {bound}")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    try:
        if not isinstance(value, bool) and least <= operator.index(value) <= most:
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{name} = {shown(value)} is not in [{least}, {most}]")


def changed(record: Any, kind: type[T], changes: Mapping[str, Any]) -> T:
    """A record with other values of some fields; UserError if it has no such field."""
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    if not isinstance(record, kind):
        raise UserError(
            f"{shown(record)} is no {kind.__name__}: name what differs, "
            f"{names[0]}={getattr(kind, names[0])!r}"
        )
    for name in changes.keys() - {*names}:
        there = f"there are {', '.join(names)}"
        raise UserError(f"no argument {name!r}{meant(name, names)}; {there}")
    return dataclasses.replace(typing.cast(Any, record), **changes)


def text_of(value: Any, name: str = "text") -> str:
    """A string that UTF-8 can spell, as the tokenizers need it."""
    if not isinstance(value, str):
        kind, hint = type(value).__name__, ""
        if isinstance(value, bytes):
            hint = ': decode them, .decode("utf-8")'
        elif hasattr(value, "read_text"):
            hint = ': read the file, .read_text("utf-8")'
        raise UserError(f"{name} is of type {kind}, not str{hint}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} has half a character, {value[error.start]!a}, at "
            f"{error.start}: its bytes were of another encoding"
        ) from None
    return str(value)


def texts_of(values: Any, name: str) -> Iterator[str]:
    """Each of several texts; a string is one text."""
    if isinstance(values, str):
        values = [values]
    if isinstance(values, bytes | Mapping) or not isinstance(values, Iterable):
        text_of(values, name)
    return (text_of(each, f"{name}[{i}]") for i, each in enumerate(values))


def meant(name: Any, names: Iterable[str]) -> str:
    """ "; did you mean …?" if one of `names` is near."""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


@functools.cache
def _kinds(record: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def _as(kind: Any, value: Any) -> Any:
    """`value` as a `kind`; one of `_MISFITS` if it is none."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        for each in args:
            with contextlib.suppress(*_MISFITS):
                return _as(each, value)
    elif origin is tuple:
        if isinstance(value, str) and args[0] is str:
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(_as(args[0], each) for each in value)
    elif origin is typing.Literal:
        if isinstance(value, str) and value in args:
            return str(value)
    elif kind is int and not isinstance(value, bool):
        return operator.index(value)
    elif kind is float and isinstance(value, numbers.Real):
        if math.isfinite(value) and not isinstance(value, bool):
            return float(value)
    elif kind not in (int, float) and isinstance(value, kind):
        return str(value) if kind is str else value
    raise TypeError


def _described(kind: Any) -> tuple[str, tuple[str, ...]]:
    """What a value of a type is, for people; and the words that it may be."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(map(repr, args)), args
    if origin is tuple:
        return f"a list, each {_described(args[0])[0]}", ()
    if origin in _UNIONS:
        found, words = zip(*map(_described, args), strict=True)
        return " or ".join(found), sum(words, ())
    return _NAMES.get(kind, getattr(kind, "__name__", "")), ()
