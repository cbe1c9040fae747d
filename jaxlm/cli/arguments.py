"""The words of a command → a frozen dataclass of its arguments, through tyro.

A verb's arguments are a dataclass whose field `config`, if it has one, is the
RunConfig: its fields are flags without a prefix (`--seed 1 --model.dropout 0`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import typing
from types import SimpleNamespace
from typing import Any, TypeVar

import tyro

from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.types import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a task's file that are named otherwise than in the training file."""

    text: str = ""
    """The text, by its name in the header or its number from 0; as `task.text`."""
    pair: str = ""
    """The second text."""
    label: str = ""
    """What is to be told."""

    def given(self) -> dict[str, str]:
        """Those that were named."""
        return {name: each for name, each in vars(self).items() if each}


Config = typing.Annotated[RunConfig, tyro.conf.arg(name="")]


def parse(kind: type[T], verb: str, argv: list[str], **defaults: Any) -> T:
    """The arguments in `argv`, over `defaults` and the config file that it names.

    Where `kind` has a field `config`, the first word is the config's name or path.

    Raises:
        UserError: an unknown flag, with the nearest one that exists.
        SystemExit: help was printed (0), or a value has the wrong type (2).
    """
    hints = typing.get_type_hints(kind)
    wants_help = any(arg in ("-h", "--help") for arg in argv)
    if hints.get("config") is RunConfig:
        if argv and not argv[0].startswith("-"):
            defaults["config"] = load_config(argv[0])
            if isinstance(defaults["config"], FinetuneConfig):
                raise UserError(f"{argv[0]} is a task's: jaxlm finetune takes it")
            argv = argv[1:]
        elif wants_help:
            defaults["config"] = RunConfig()
        else:
            raise UserError(f"jaxlm {verb} needs a config first; see jaxlm show")
    positional = [f.name for f in dataclasses.fields(kind) if _is_positional(kind, f)]  # type: ignore[arg-type]
    _refuse_unknown(verb, argv, _flags(kind, SimpleNamespace(**defaults)))
    _refuse_missing(kind, verb, argv, defaults, positional, wants_help)
    lists = [name for name, hint in hints.items() if typing.get_origin(hint) is tuple]
    bare = [name for name, hint in hints.items() if hint is bool]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                kind,
                prog=f"jaxlm {verb}",
                args=_normal(argv, lists, bare),
                default=kind(**{**_blank(kind), **defaults}),
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as end:
        if end.code == 0:
            raise
        # tyro draws a box round its message; what is said is one line without it.
        words = re.sub(r"[^\x20-\x7e]+", " ", printed.getvalue()).split()
        message = " ".join(words).split(" For full helptext")[0]
        raise UserError(message) from None


def _is_positional(kind: Any, field: dataclasses.Field) -> bool:
    hint = typing.get_type_hints(kind, include_extras=True)[field.name]
    return tyro.conf.Positional[str] == hint


def _blank(kind: Any) -> dict[str, str]:
    """Required fields, strings or choices, all of which `_refuse_missing` has seen."""
    hints = typing.get_type_hints(kind)
    return {
        f.name: next(iter(typing.get_args(hints[f.name])), "")
        for f in dataclasses.fields(kind)
        if _required(f)
    }


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _refuse_missing(kind, verb, argv, defaults, positional, wants_help) -> None:
    if wants_help:
        return
    given = {arg.split("=")[0].lstrip("-").replace("-", "_") for arg in argv}
    for field in dataclasses.fields(kind):
        if field.name in defaults or not _required(field):
            continue
        if field.name in positional:
            if not argv or argv[0].startswith("-"):
                raise UserError(f"jaxlm {verb} needs {field.name.upper()} first")
        elif field.name not in given:
            raise UserError(f"jaxlm {verb} needs --{field.name}")


def _flags(kind: Any, value: Any, at: str = "") -> list[str]:
    """Dotted names of all fields; a union of families is the one that `value` has."""
    hints = typing.get_type_hints(kind)
    out = []
    for field in dataclasses.fields(kind):
        hint, inner = hints[field.name], getattr(value, field.name, None)
        if dataclasses.is_dataclass(inner) or dataclasses.is_dataclass(hint):
            top = field.name == "config" and not at
            under = "" if top else f"{at}{field.name}."
            out += _flags(type(inner) if inner else hint, inner, under)
        elif not _is_positional(kind, field):
            out.append(at + field.name)
    return out


def _refuse_unknown(verb: str, argv: list[str], known: list[str]) -> None:
    for arg in argv:
        if not arg.startswith("--") or arg == "--help" or arg.startswith("--phases."):
            continue
        name = arg[2:].split("=")[0].replace("-", "_")
        if name not in known:
            leaf = name.rsplit(".", 1)[-1]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7) or [
                flag for flag in known if flag.rsplit(".", 1)[-1] == leaf
            ]
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"did you mean --{near[0]}?" if near else f"see jaxlm {verb} --help"
            raise UserError(f"unknown field --{name}: {hint}")


def _normal(argv: list[str], lists: list[str], bare: list[str]) -> list[str]:
    """`--flag=v` cut, true and false as Python spells them; of a repeated flag the last
    one counts, but the words of one in `lists` are joined; one in `bare` that has no
    word is true."""
    cut: list[str] = []
    for arg in argv:
        cut += arg.split("=", 1) if arg.startswith("--") and "=" in arg else [arg]
    groups: dict[str, list[str]] = {}
    loose: list[str] = []
    into = loose
    for arg in cut:
        if arg.startswith("--"):
            flag = arg[2:].replace("-", "_")
            if flag not in lists:
                groups.pop(flag, None)
            into = groups.setdefault(flag, [])
        else:
            boolean = into is not loose and arg in ("true", "false")
            into.append(arg.capitalize() if boolean else arg)
    for flag in bare:
        if groups.get(flag) == []:
            groups[flag] = ["True"]
    return loose + [
        word for flag, each in groups.items() for word in (f"--{flag}", *each)
    ]


def say(text: str) -> None:
    """A line for people, on the standard error: the standard output is for results."""
    print(text, file=sys.stderr, flush=True)
