"""The words of a command → a frozen dataclass of its arguments.

The arguments of a verb are a dataclass, flat or with the library's dataclasses as
fields. A field `config` is read from the file that the first word names, and its fields
are flags without a prefix (`--seed 1 --model.dropout 0`). Next: `settings.py` makes the
record, as it does of Python's keyword arguments.
"""

import argparse
import re
import shlex
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from jaxlm.cli.flags import Flag, flag_meant, flags_of
from jaxlm.cli.meanings import flags_meant, said_of
from jaxlm.cli.settings import arguments, config_of, refuse, refused
from jaxlm.cli.usage import print_help, usage_of
from jaxlm.config import RunConfig
from jaxlm.types import UserError

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)
_OF_WORDS = ("--prompt", "--text", "--data", "--only")  # whose name people leave out
HELP = {"-h", "--help", "--help-all"}


def parse(kind: type[T], argv: list[str], *, verb: str = "", config: Any = None) -> T:
    """The arguments in `argv`; others have the defaults of `kind`.

    The verb is by default the name of `kind`. A config that is not given is named by
    the first word. `--help` prints help and exits.
    """
    verb = verb or kind.__name__.lower()
    argv, chosen = [_underscored(arg) for arg in argv], None
    needs = typing.get_type_hints(kind).get("config", str)
    if config is None and issubclass(needs, RunConfig):
        config, rest = take_config(needs, verb, argv)
        chosen, argv = (config if rest != argv else None), rest
    flags = [*flags_of(kind, {"config": config})]
    if HELP & set(argv):
        print_help(kind, flags, verb, chosen, every="--help-all" in argv)
        raise SystemExit(0)
    if config:
        refuse(argv, refused(kind, config))
    _refuse_unknown(argv, flags, verb)
    return arguments(kind, _values(argv, flags, verb), config, at="--")


def refuse_misspelt(kind: type, config: RunConfig, argv: list[str]) -> None:
    """`parse`'s error for an unknown flag, but for the flags of a model's family."""
    argv = [_underscored(arg) for arg in argv]
    refuse(argv, refused(kind, config))
    words = [arg for arg in argv if not arg.startswith(("--model.", "--data."))]
    flags = [*flags_of(kind, {"config": config})]
    _refuse_unknown(words, flags, kind.__name__.lower())


def early(argv: list[str], **flags: str) -> list[str]:
    """Values of flags that are needed before all others; `flags` has defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, value in flags.items():
        parser.add_argument(f"--{name}", default=value)
    argv = [_underscored(arg) for arg in argv]
    return [*vars(parser.parse_known_args(argv)[0]).values()]


def take_config(kind: type[C], verb: str, argv: list[str]) -> tuple[C, list[str]]:
    """(the configuration that the first word names, the remaining words)."""
    if argv and not argv[0].startswith("-"):
        return config_of(kind, argv[0], verb), argv[1:]
    if HELP & set(argv):
        return kind(), argv
    raise UserError(f"jaxlm {verb} needs a CONFIG first, a recipe's name or file")


def _underscored(arg: str) -> str:
    """`--max-tokens=7` as `--max_tokens=7`; other words as they are."""
    name, equals, value = arg.partition("=")
    if arg in HELP or not re.match("--[A-Za-z]", name):
        return arg
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _refuse_unknown(argv: Sequence[str], flags: Sequence[Flag], verb: str) -> None:
    """UserError for a flag that the verb lacks, with the one that may be meant, and for
    a required one that is not given."""
    known = {flag.name: flag for flag in flags if not flag.positional}
    given = dict.fromkeys(arg[2:].partition("=")[0] for arg in argv if arg[:2] == "--")
    for arg in argv:
        name = arg[1:].partition("=")[0].replace("-", "_")
        near = known.get(next(iter(flags_meant(name)), name))
        if near and re.match("-[A-Za-z]", arg):
            raise UserError(f"{arg}: a flag has two hyphens, {near.label}")
    for name in given:
        if name in known or not re.match(r"[A-Za-z]", name):
            continue
        near = flag_meant(name, known)
        hint = said_of(name) or f"see jaxlm {verb} --help"
        if near and not said_of(name):
            hint = f"did you mean {near.label}? ({near.said})"
        raise UserError(f"{verb} has no flag --{name}: {hint}")
    for flag in known.values():
        if flag.required and flag.name not in given:
            raise UserError(f"{verb} needs {flag.label}: {flag.said}")


def _values(argv: Sequence[str], flags: Sequence[Flag], verb: str) -> dict[str, Any]:
    """Field → value of what is given; a flag that is repeated has the last value, or,
    if it takes a list, all of them."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for flag in flags:
        how: Any = {"nargs": "?", "const": True if flag.kind is bool else None}
        if flag.several:
            how = {"nargs": "*", "action": "extend"}
        if not flag.positional:
            parser.add_argument(
                f"--{flag.name}", dest=flag.field, type=flag.read, **how
            )
    named, words = parser.parse_known_args(argv)
    words, found = [word for word in words if word != "--"], vars(named)
    for flag in flags:
        if found.get(flag.field, "") is None:
            raise UserError(f"--{flag.name} needs a value: {flag.takes}")
        if not flag.positional:
            continue
        if flag.several:
            found[flag.field], words = [flag.read(word) for word in words], []
        elif words:
            found[flag.field] = flag.read(words.pop(0))
        elif flag.required:
            raise UserError(f"{verb} needs {flag.label}: {usage_of(verb, flags)}")
    if words:
        left = " ".join(words)
        may = [f"--{flag.name}" for flag in flags if flag.field not in found]
        for name in _OF_WORDS:
            if name in may:
                raise UserError(f"did you mean {name} {shlex.quote(left)}?")
        raise UserError(f"too many words: {left}; {usage_of(verb, flags)}")
    return found
