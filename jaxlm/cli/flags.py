"""The flags of a verb: its dataclass → names, types, defaults and what they are for.

    flags_of(Generate)     Flag("directory", "TEXT", …), Flag("top_k", "INT", …), …

A field `config` is a recipe, whose fields are flags without a prefix. Next: `usage.py`
prints flags, `arguments.py` reads the words of a command by them.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from jaxlm.cli.meanings import VALUES, flags_meant
from jaxlm.config.checks import instead, meant
from jaxlm.types import UserError

T = TypeVar("T")
_POSITIONAL = object()
Positional = Annotated[T, _POSITIONAL]  # given without its name
_TAKES = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{true,false}"}
_PLACES = dict.fromkeys(("workdir", "corpus", "init", "cache"), "DIR")
_PLACES |= dict.fromkeys(("text", "data", "dev", "out", "lexicon"), "FILE")
_NONE: Mapping[str, Any] = types.MappingProxyType({})


class Named(NamedTuple):
    """The flag's name where it is a keyword of Python, which no field can have."""

    name: str


class Flag(NamedTuple):
    """One argument of a verb."""

    name: str  # dotted, without the two hyphens
    field: str  # dotted; differs from the name if that is a keyword of Python
    takes: str
    default: Any
    what: str
    kind: Any
    positional: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def several(self) -> bool:
        """Whether it takes a list."""
        return self.takes.endswith("…")

    @property
    def label(self) -> str:
        """The flag with what it takes."""
        return self.name.upper() if self.positional else f"--{self.name} {self.takes}"

    @property
    def said(self) -> str:
        """What it is for, in one sentence, for messages."""
        first = re.split(r"(?<=[a-z0-9)])[.;:] ", self.what, maxsplit=1)[0]
        return first.rstrip(".")

    def read(self, word: str) -> Any:
        """A word of a command as a value of the flag's type, else a UserError."""
        try:
            return _value_of(self.kind, word)
        except ValueError:
            pass
        given, takes = f"--{self.name} {word!r}", self.takes.removesuffix(" …")
        if takes == "{true,false}":
            raise UserError(f"{given} is neither true nor false")
        if "{" in takes:
            choices, meaning = re.findall(r"[^{,}|]+", takes), VALUES.get(word.lower())
            near = instead(meaning if meaning in choices else word, choices)
            raise UserError(f"{given}: {near}")
        if takes == "INT" and re.fullmatch(r"\d{1,3}(,\d{3})+|\d+(e\d)?", word):
            raise UserError(f"{given}: write {float(word.replace(',', '')):.0f}")
        kinds = {"INT": "a whole number", "NUMBER": "a number"}
        raise UserError(f"{given} is not {kinds.get(takes, takes)}")


def flags_of(
    kind: Any, values: Mapping[str, Any] = _NONE, at: str = ""
) -> Iterator[Flag]:
    """All flags of a dataclass, with its defaults, or `values` of some fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], values.get(field.name, _default(field))
        notes, args = getattr(hint, "__metadata__", ()), typing.get_args(hint)
        if dataclasses.is_dataclass(value):
            if field.name == "config":
                every, read = flags_of(type(value), vars(value)), settings_of(kind)
                yield from (flag for flag in every if flag.name.startswith(read))
            else:
                yield from flags_of(type(value), vars(value), f"{at}{field.name}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for i, each in enumerate(value):
                yield from flags_of(type(each), vars(each), f"{at}{field.name}.{i}.")
        elif typing.get_origin(hint) is typing.Literal and len(args) == 1:
            continue  # which dataclass this is, in JSON
        elif args and dataclasses.is_dataclass(args[0]):
            continue  # a recipe without phases
        else:
            own = (each.name for each in notes if isinstance(each, Named))
            name, path = at + next(own, field.name), at + field.name
            takes = _takes(hint, _PLACES.get(name, "TEXT"))
            what = _documented(kind, field.name)
            yield Flag(name, path, takes, value, what, hint, _POSITIONAL in notes)


def settings_of(kind: type) -> tuple[str, ...]:
    """How the settings begin that a verb reads of its config: by default, all."""
    return getattr(kind, "settings", ("",))


def flag_meant(name: str, known: Mapping[str, Flag]) -> Flag | None:
    """The flag that a user may mean: by its meaning, its last part, its spelling."""
    last = name.rsplit(".", 1)[-1].lower()
    same = (each for each in known if each.rsplit(".", 1)[-1] == last)
    for each in (*flags_meant(last), *same):
        if each in known:
            return known[each]
    near = meant(name, known, cutoff=0.6).removeprefix("did you mean ")
    return known.get(near.removesuffix("?"))


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _takes(hint: Any, text: str = "TEXT") -> str:
    """What a flag takes, in capitals or as choices; `text` stands for a string."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _takes(args[0], text)
    if origin is tuple:
        return f"{_takes(args[0], text)} …"
    if origin is typing.Literal:
        return "{" + ",".join(str(each) for each in args if each != "") + "}"
    if args:
        each = [_takes(arg, text) for arg in args]
        return "NUMBER" if set(each) == {"INT", "NUMBER"} else "|".join(each)
    return {**_TAKES, str: text}.get(hint, text)


def _value_of(kind: Any, word: str) -> Any:
    """A word as a value of a type, of a list one item; ValueError if it is none."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Annotated, tuple):
        return _value_of(args[0], word)
    if kind is bool:
        args, word = (True, False), word.capitalize()
    elif origin is not typing.Literal:
        for each in args:  # of a union
            with contextlib.suppress(ValueError):
                return _value_of(each, word)
        if not args:
            return kind(word)
    for each in args:
        if str(each) == word:
            return each
    raise ValueError


def _documented(kind: Any, field: str) -> str:
    """The lines below a field of a dataclass, or of the one that it inherits from."""
    every = (
        _documents(each.__module__).get(each.__name__, {}) for each in kind.__mro__
    )
    return next((each[field] for each in every if field in each), "")


@functools.cache
def _documents(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string below the field, of a module's source."""
    try:
        source = Path(inspect.getfile(sys.modules[module])).read_text("utf-8")
    except (TypeError, OSError, KeyError):
        return {}
    found: dict[str, dict[str, str]] = {}
    classes = (
        each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)
    )
    for node in classes:
        texts = found.setdefault(node.name, {})
        for field, text in itertools.pairwise(node.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    texts[name] = " ".join(said.split())
    return found
