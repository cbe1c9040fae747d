"""Python's keyword arguments → the record that the words of a command would give.

    arguments(Pretrain, {"workdir": "runs/a", "model": {"dropout": 0}}, config)

Names are those of the flags, dotted or nested. Next: the function of the verb.
"""

import dataclasses
import json
import os
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from jaxlm.cli.arguments import refuse
from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.config.checks import check_ranges, meant, typed
from jaxlm.config.files import from_dict
from jaxlm.config.idle import foreign, idle
from jaxlm.types import UserError

T = TypeVar("T")
C = TypeVar("C", bound=RunConfig)


def arguments(kind: type[T], given: Mapping[str, Any], config: Any = None) -> T:
    """A record of the type `kind`; what it has no field for is a setting of `config`.

    None stands for the default.
    """
    each: Any = {x.name: x for x in dataclasses.fields(kind) if x.name != "config"}  # type: ignore[arg-type]
    flat = dict(flattened(given))
    mine: dict[str, Any] = {}
    for name in [name for name in flat if name.partition(".")[0] in each]:
        group, _, field = name.partition(".")
        value = flat.pop(name)
        mine[group] = {**mine.get(group, {}), field: value} if field else value
    if config is not None:
        mine["config"] = _with(config, flat, each)
    elif flat:
        raise _unknown(next(iter(flat)), each)
    hints = typing.get_type_hints(kind)
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
    check_ranges(found)
    return found


def config_of(kind: type[C], recipe: Any, verb: str) -> C:
    """The config of a recipe's name or file, or the config that is given."""
    config = recipe
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


def _with(config: RunConfig, flat: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """The config with other values of some settings, all checked."""
    words = [f"--{name}" for name in flat]
    refuse(words, foreign(config))
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    for name, value in flat.items():
        if not _put(data, name.split("."), value):
            raise _unknown(name, own, data)
    found = from_dict(data)
    refuse(words, idle(found))
    return found


def _put(data: Any, names: list[str], value: Any) -> bool:
    """Set an entry of nested dictionaries and lists; returns whether there is one."""
    first, *rest = names
    keys = range(len(data)) if isinstance(data, list) else data
    key: Any = int(first) if isinstance(data, list) and first.isdecimal() else first
    if not isinstance(data, list | dict) or key not in keys:
        return False
    if rest:
        return _put(data[key], rest, value)
    data[key] = value
    return True


def _unknown(name: str, *known: Any) -> UserError:
    names = [each for group in known for each, _ in _names(group)]
    last = name.rpartition(".")[2]
    same = [each for each in names if each.rpartition(".")[2] == last]
    return UserError(f"no setting {name!r}{meant(name, same or names, ': ')}")


def _names(data: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        yield f"{at}{name}", value
        if isinstance(value, Mapping):
            yield from _names(value, f"{at}{name}.")
