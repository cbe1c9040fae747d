"""The words of a command → a frozen dataclass of its arguments, through tyro.

The arguments of a verb are a dataclass, flat or with the library's dataclasses as
fields. A field `config` is read from the file that the first word names, and its fields
are flags without a prefix (`--seed 1 --model.dropout 0`).
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import typing
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from jaxlm.cli.flags import flags_of, mistake_in, print_help, refuse_unknown
from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.config.checks import check_ranges
from jaxlm.config.idle import foreign, idle
from jaxlm.types import UserError

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)
Flat = tyro.conf.arg(name="")
Config = Annotated[RunConfig, Flat]

_STYLE = (
    tyro.conf.AvoidSubcommands,
    tyro.conf.FlagConversionOff,
    tyro.conf.PositionalMetavarFromFieldName,
)
HELP = {"-h", "--help", "--help-all"}
_REGISTRY = ConstructorRegistry()


def parse(kind: type[T], argv: list[str], *, verb: str = "", **given: Any) -> T:
    """The arguments in `argv`; others are from `given`, or the defaults of `kind`.

    The verb is by default the name of `kind`. `--help` prints help and exits.
    """
    verb = verb or kind.__name__.lower()
    hints = typing.get_type_hints(kind)
    takes_config, chosen = issubclass(hints.get("config", str), RunConfig), None
    if takes_config:
        if "config" not in given:
            asked, argv = argv[:1], list(argv)
            given["config"], argv = take_config(hints["config"], verb, argv)
            chosen = given["config"] if asked != argv[:1] else None
        if not HELP & set(argv):
            refuse(argv, foreign(given["config"]))
    default = _blank(kind, **given)
    flags = [*flags_of(kind, default)]
    if HELP & set(argv):
        print_help(kind, flags, verb, chosen, every="--help-all" in argv)
        raise SystemExit(0)
    refuse_unknown(argv, flags, verb)
    lists = {name for name, hint in hints.items() if typing.get_origin(hint) is tuple}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            found: Any = tyro.cli(
                kind,
                prog=f"jaxlm {verb}" + " CONFIG" * takes_config,
                args=_joined(argv, lists),
                default=default,
                use_underscores=True,
                config=_STYLE,
                registry=_REGISTRY,
            )
    except SystemExit as end:
        if end.code == 0:
            raise
        said = _without_box(printed.getvalue())
        raise UserError(mistake_in(said, argv, flags, verb)) from None
    check_ranges(found, "--")
    if takes_config:
        refuse(argv, idle(found.config))
    return found


def refuse_misspelt(kind: type, config: RunConfig, argv: list[str]) -> None:
    """`parse`'s error for an unknown flag, but for the flags of a model's family."""
    refuse(argv, foreign(config))
    words = [arg for arg in argv if not arg.startswith(("--model.", "--data."))]
    flags = [*flags_of(kind, _blank(kind, config=config))]
    refuse_unknown(words, flags, kind.__name__.lower())


def early(argv: list[str], **flags: str) -> list[str]:
    """Values of flags that are needed before all others; `flags` has defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, value in flags.items():
        parser.add_argument(f"--{name}", default=value)
    return [*vars(parser.parse_known_args(argv)[0]).values()]


def refuse(argv: list[str], idle: dict[str, str]) -> None:
    """Raise a UserError for a flag in `idle`: name → why it would change nothing."""
    for arg in argv:
        name = arg[2:].partition("=")[0].replace("-", "_") if arg[:2] == "--" else ""
        groups = itertools.accumulate(name.split("."), "{}.{}".format)
        for each in {*groups} & idle.keys():
            raise UserError(f"--{name} {idle[each]}")


def take_config(kind: type[C], verb: str, argv: list[str]) -> tuple[C, list[str]]:
    """(the configuration that the first word names, the remaining words)."""
    if argv and not argv[0].startswith("-"):
        config = load_config(argv[0])
        if type(config) is kind:
            return config, argv[1:]
        other = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
        raise UserError(f"{argv[0]} is a recipe of jaxlm {other}")
    if HELP & set(argv):
        return kind(), argv
    raise UserError(f"jaxlm {verb} needs a CONFIG first, a recipe's name or file")


def _blank(kind: type[T], **given: Any) -> T:
    """A `kind` made without `__init__`: required arguments have no value yet."""
    blank = object.__new__(kind)
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    vars(blank).update({field.name: _default(field) for field in fields} | given)
    return blank


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    required = field.default is dataclasses.MISSING
    return tyro.MISSING if required else field.default


@_REGISTRY.primitive_rule
def _boolean(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How tyro parses booleans: `--verify`, `--verify true` or `--verify false`."""
    if info.type is not bool:
        return None

    def value_of(words: list[str]) -> bool:
        word = " ".join(words).lower() or "true"
        if word not in ("true", "false"):
            raise ValueError(f"{word!r} is neither true nor false")
        return word == "true"

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="{true,false}",
        instance_from_str=value_of,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _joined(argv: list[str], lists: set[str]) -> list[str]:
    """`argv` with all words of a repeated list flag moved to its first occurrence.

    If any other flag is repeated, tyro takes the last value.
    """
    groups: dict[Any, list[str]] = {0: []}
    key: Any = 0
    for arg in argv:
        flag, equals, value = arg.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--"):
            groups[key].append(arg)
        elif name in lists:
            key = name
            groups.setdefault(key, [flag]).extend([value] * bool(equals))
        else:
            key = len(groups)
            groups[key] = [arg]
    return [arg for group in groups.values() for arg in group]


def _without_box(box: str) -> str:
    """tyro's error message, without its frame, title and help texts."""
    said: list[str] = []
    for line in box.splitlines()[1:-1]:
        text = line[1:-1].strip()
        if text.startswith(("For full helptext", "Argument helptext")):
            break
        if text.strip("─-") and not line[2:].startswith(" " * 8):
            said.append(text)
    return " ".join(said)
