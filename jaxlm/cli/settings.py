"""Python's keyword arguments → the record that the words of a command would give.

    arguments(Pretrain, {"workdir": "runs/a", "model": {"dropout": 0}}, config)

Names are those of the flags, dotted or nested. Next: the function of the verb.
"""

import dataclasses
import functools
import itertools
import json
import operator
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jaxlm.cli.flags import flag_meant, flags_of, settings_of
from jaxlm.cli.meanings import said_of
from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.config.checks import check_ranges, typed
from jaxlm.config.files import from_dict
from jaxlm.config.idle import foreign, idle
from jaxlm.types import UserError

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)


def arguments(
    kind: type[T], given: Mapping[str, Any], config: Any = None, at: str = ""
) -> T:
    """A record of the type `kind`; what it has no field for is a setting of `config`.

    None stands for the default. `at` stands before the names in errors.
    """
    each: Any = {x.name: x for x in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if config is not None:
        del each["config"]
    hints, mine, others = typing.get_type_hints(kind), {}, {}
    for name, value in flattened(given):
        group, _, field = name.partition(".")
        if name in each:
            mine[name] = value
        elif group in each and dataclasses.is_dataclass(each[group].default_factory):
            mine.setdefault(group, {})[field] = value
        else:  # `text` is the verb's own, `text.lowercase` is of the config
            others[name] = value
    try:
        if config is not None:
            refuse([f"--{name}" for name in others], refused(kind, config))
            mine["config"] = _with(config, others)
        elif others:
            raise KeyError(next(iter(others)))
    except KeyError as error:
        flags = {flag.name: flag for flag in flags_of(kind, {"config": config})}
        near = flag_meant(error.args[0], flags)
        hint = f"did you mean {near.name}?" if near else "see jaxlm VERB --help-all"
        hint = said_of(error.args[0]) or hint
        raise UserError(f"no setting {error.args[0]!r}: {hint}") from None
    for name, value in mine.items():
        if isinstance(value, dict):
            value = arguments(each[name].default_factory, value)
        mine[name] = typed(hints[name], value, name)
    missing = [
        name
        for name, x in each.items()
        if name not in mine and x.default is x.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{', '.join(missing)}: needed, and not given")
    found = kind(**mine)
    check_ranges(found, at)
    return found


def config_of(kind: type[C], recipe: Any, verb: str) -> C:
    """The config of a recipe's name or file, or the config that is given."""
    config = recipe
    if recipe is None:
        raise UserError(f"{verb} needs a recipe, a name or file: jaxlm recipes")
    if not isinstance(recipe, RunConfig):
        config = load_config(str(recipe))
    if type(config) is not kind:
        other = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
        what = "this" if config is recipe else recipe
        raise UserError(f"{what} is a recipe of jaxlm {other}, not of {verb}")
    return config


def command(verb: str, recipe: Any, given: Mapping[str, Any]) -> list[str]:
    """The words of the command that does the same, for the run's provenance."""
    words = [verb]
    if recipe is not None:
        words.append("CONFIG" if isinstance(recipe, RunConfig) else str(recipe))
    for name, value in flattened(given):
        several = isinstance(value, list | tuple)
        values = value if several else [value]
        words += [
            f"--{name}",
            *(str(x).lower() if x is True or x is False else str(x) for x in values),
        ]
    return words


def flattened(given: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each setting that is not None."""
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{at}{name}.")
        elif value is not None:
            yield f"{at}{name}", _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def refused(kind: type, config: RunConfig) -> dict[str, str]:
    """Name → why a verb takes no such setting of a config."""
    read, every = settings_of(kind), flags_of(type(config), vars(config))
    why = "changes nothing in a corpus: pass it to pretrain"
    unread = {flag.name: why for flag in every if not flag.name.startswith(read)}
    return {**unread, **foreign(config)}


def refuse(words: Iterable[str], reasons: Mapping[str, str]) -> None:
    """UserError for a flag in `reasons`: its name, or its group's → why it is idle."""
    for word in words:
        name = word[2:].partition("=")[0] if word[:2] == "--" else ""
        groups = itertools.accumulate(name.split("."), "{}.{}".format)
        for each in {*groups} & reasons.keys():
            raise UserError(f"--{name} {reasons[each]}")


def _with(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The config with other values of some settings, all checked; KeyError for one that
    it does not have."""
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    for name, value in settings.items():
        *groups, last = [int(x) if x.isdecimal() else x for x in name.split(".")]
        try:
            at = functools.reduce(operator.getitem, groups, data)
            operator.getitem(at, last)  # it must be there
            at[last] = value
        except (LookupError, TypeError):
            raise KeyError(name) from None
    found = from_dict(data)
    refuse([f"--{name}" for name in settings], idle(found))
    return found
