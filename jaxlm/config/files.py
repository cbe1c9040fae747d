"""Configurations on disk: a recipe → RunConfig → JSON in a run directory → back."""

import dataclasses
import difflib
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any

from jaxlm.config.data import DataConfig
from jaxlm.config.run import RunConfig
from jaxlm.config.task import FinetuneConfig
from jaxlm.types import UserError

# In a wheel the recipes lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIRECTORIES = (_PACKAGE / "_configs", _PACKAGE.parent / "configs")


def recipes() -> dict[str, Path]:
    """Name → file of every shipped recipe."""
    return {
        path.stem: path
        for directory in CONFIG_DIRECTORIES
        for path in sorted(directory.glob("*.py"))
        if not path.stem.startswith("_")
    }


def load_config(name: str) -> RunConfig:
    """The configuration of a recipe's bare name or of a path to a Python file.

    Raises:
        UserError: there is no such recipe, or the file has no `get_config`.
    """
    path = Path(name)
    if path.suffix != ".py":
        shipped = recipes()
        if name not in shipped:
            near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"no config {name!r}: {hint}there are {', '.join(shipped)}")
        path = shipped[name]
    if not path.is_file():
        raise UserError(f"no config file {path}")
    spec = importlib.util.spec_from_file_location(f"jaxlm_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no function get_config() -> RunConfig")
    return module.get_config()


def to_json(config: RunConfig) -> str:
    """JSON that `from_json` gives back as an equal config."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """The config of `to_json`'s text; one with a task is a FinetuneConfig.

    Raises:
        UserError: a field that no config has (with the nearest one that exists).
    """
    data = json.loads(text)
    kind = FinetuneConfig if "task" in data else RunConfig
    hints = typing.get_type_hints(kind)
    kinds = typing.get_args(hints["model"])
    model = _family(kinds, data.get("model", {}), "model.")
    hints["data"] = DataConfig if kind is FinetuneConfig else model.data
    return _build(kind, data, "", hints)


def _build(kind: Any, data: Any, at: str, hints: dict[str, Any] | None = None) -> Any:
    if not dataclasses.is_dataclass(kind):
        return data
    types_ = hints or typing.get_type_hints(kind)
    for name in data:
        if name not in types_:
            near = difflib.get_close_matches(name, types_, n=1, cutoff=0.4)
            hint = f"; did you mean {at}{near[0]}?" if near else ""
            raise UserError(f"unknown config field {at}{name}{hint}")
    return kind(**{k: _value(types_[k], v, f"{at}{k}.") for k, v in data.items()})


def _value(kind: Any, value: Any, at: str) -> Any:
    if typing.get_origin(kind) is tuple:
        return tuple(_build(typing.get_args(kind)[0], v, at) for v in value)
    if isinstance(kind, types.UnionType) and isinstance(value, dict):
        kind = _family(typing.get_args(kind), value, at)
    return _build(kind, value, at)


def _family(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    """The dataclass whose field `family` has the value's name."""
    by_name = {str(dataclasses.fields(kind)[0].default): kind for kind in kinds}
    name = value.get("family", "bert")
    if name not in by_name:
        raise UserError(f"{at}family = {name!r}: there are {', '.join(by_name)}")
    return by_name[name]


def difference(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted name → (old, new) of every field in which two configs differ."""
    a, b = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    return {
        name: (a.get(name), b.get(name))
        for name in {**a, **b}
        if a.get(name) != b.get(name)
    }


def _flat(data: Any, at: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, (list, tuple)):
        items = ((str(i), each) for i, each in enumerate(data))
    else:
        return {at: data}
    out: dict[str, Any] = {}
    for name, each in items:
        out.update(_flat(each, f"{at}.{name}" if at else name))
    return out
