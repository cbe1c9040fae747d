"""A user's values, from Python or a file → values of the right types, or an error.

The library's records, which are also the flags of its verbs, check themselves when they
are made, see `Checked`: Python and the command line say the same.

    top_p: Annotated[float, "(0, 1]"] = 1.0         above 0, at most 1
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import math
import numbers
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from jaxlm.types import UserError

T = TypeVar("T")

LARGEST_COUNT = 2**31 - 1  # of a whole number without another bound: it has 32 bits
_NAMES = {bool: "True or False", int: "a whole number", float: "a finite number"}
_NAMES |= {str: "a string"}
_MANY = 12  # names, of which a message lists all
_UNIONS = (typing.Union, types.UnionType)
_MISFITS = (TypeError, ValueError, OverflowError)


class Checked:
    """A base of frozen dataclasses that refuse wrong values of their fields."""

    _at: ClassVar[str] = ""

    def __init_subclass__(cls, at: str = "") -> None:
        """`at` is the prefix of the fields' names in errors, such as "model."."""
        cls._at = at or cls._at

    def __post_init__(self) -> None:
        check_fields(self, self._at)
        for mistake in self._mistakes():
            raise UserError(mistake)

    def _mistakes(self) -> Iterator[str]:
        """What is wrong although each field has the right type and range."""
        yield from ()


def check_fields(record: Any, at: str = "") -> None:
    """Give each field of a frozen dataclass the type that it is declared with, and
    check its range.

    Numbers of numpy become Python's, lists tuples, and a single string a tuple of one
    where several may stand. `at` is the prefix of the names in the error.
    """
    for name, kind in _kinds(type(record)).items():
        value = typed(kind, getattr(record, name), f"{at}{name}")
        object.__setattr__(record, name, value)
    check_ranges(record, at)


def typed(kind: Any, value: Any, name: str) -> Any:
    """A value as a `kind`, see `check_fields`; UserError if it is none."""
    try:
        return _as(kind, value)
    except _MISFITS:
        what, words = _described(kind)
        hint = meant(value, words, "; ")
        raise UserError(f"{name} = {shown(value)} is not {what}{hint}") from None


def check_ranges(record: Any, at: str = "") -> None:
    """Refuse a field outside the interval that it is annotated with."""
    for name, interval in _intervals(type(record)).items():
        low, high = map(float, interval[1:-1].split(", "))
        value = getattr(record, name)
        above = value > low or (value == low and interval[0] == "[")
        if high == math.inf and type(value) is int and value > LARGEST_COUNT:
            raise UserError(f"{at}{name} = {shown(value)} is above {LARGEST_COUNT}")
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
        example = f"{names[0]}={getattr(kind, names[0])!r}"
        this = f"{shown(record)} is not a {kind.__name__}"
        raise UserError(f"{this}: name what differs, {example}")
    for name in changes.keys() - {*names}:
        raise UserError(f"no argument {name!r}: {instead(name, names)}")
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


def meant(
    name: Any, names: Iterable[str], before: str = "", *, cutoff: float = 0.4
) -> str:
    """ "did you mean …?", with `before` in front, if one of `names` is near.

    bert-tiny is bert_tiny, and bert_base_uncased begins with bert_base.
    """
    wrong = _folded(name)
    known = {_folded(each): each for each in reversed([*names])}
    begins = [each for each in known if wrong.startswith(f"{each}_")]
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff)
    near = [max(begins, key=len)] if begins else near
    near = [wrong] if wrong in known else near
    return f"{before}did you mean {known[near[0]]}?" if near else ""


def _folded(name: Any) -> str:
    return str(name).lower().replace("-", "_")


def instead(name: Any, names: Iterable[str], are: str = "there are") -> str:
    """All names that could stand in place of a wrong one, the nearest one first; of
    many, only those that begin with it, or one that is very near."""
    names = list(map(str, names))
    if len(names) > _MANY:
        if begun := [x for x in names if _folded(x).startswith(f"{_folded(name)}_")]:
            names = begun
        elif sure := meant(name, names, cutoff=0.75):
            return sure
    every = f"{are} {', '.join(names) or 'none'}"
    return " ".join(filter(None, (meant(name, names), every)))


def optional(module: str, use: str, package: str = "") -> Any:
    """An optional module; if it is missing, a UserError names `use` and `package`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        command = f"pip install {package or module}"
        raise UserError(f"{use} needs {module}: {command}") from None


def shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


@functools.cache
def _kinds(record: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


@functools.cache
def _intervals(record: type) -> dict[str, str]:
    hints = typing.get_type_hints(record, include_extras=True)
    found = {k: getattr(v, "__metadata__", (None,))[0] for k, v in hints.items()}
    return {name: each for name, each in found.items() if isinstance(each, str)}


def _as(kind: Any, value: Any) -> Any:
    """`value` converted to `kind`; raises one of `_MISFITS` if it is another one."""
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
    """A type in plain words, and the words that a value of it may be."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(map(repr, args)), args
    if origin is tuple:
        return f"a list, each {_described(args[0])[0]}", ()
    if origin in _UNIONS:
        found, words = zip(*map(_described, args), strict=True)
        return " or ".join(found), sum(words, ())
    return _NAMES.get(kind, getattr(kind, "__name__", "")), ()
