"""Configurations on disk: a recipe → RunConfig → JSON in a run directory → back."""

import dataclasses
import fnmatch
import runpy
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.config.checks import instead, meant, shown, typed
from jaxlm.config.model import DataConfig, ModelConfig
from jaxlm.config.run import RunConfig
from jaxlm.config.task import FinetuneConfig
from jaxlm.types import UserError

# In a wheel the recipes lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
# None of these changes the mathematics of a step; on another mesh, batches are the same
# and losses within 1e-6.
_FREE = (
    "stop log.* save_every eval_every eval_rows keep keep_every max_skipped "
    "data.threads data.cache text.languages* mesh.* remat attention "
    "deterministic xla*"
)
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
    """The configuration of a recipe, given by its name or the path of its file."""
    path = Path(name)
    if path.suffix != ".py":
        shipped = recipes()
        if path.is_file():
            raise UserError(f"{name} is a file: a recipe is a name or a file .py")
        if name not in shipped:
            every = "jaxlm recipes describes them"
            raise UserError(f"no config {name!r}: {instead(name, shipped)} ({every})")
        path = shipped[name]
    if not path.is_file():
        raise UserError(f"no config file {path}")
    names = runpy.run_path(str(path))
    if "get_config" not in names:
        raise UserError(f"{path} has no function get_config() -> RunConfig")
    return names["get_config"]()


def from_dict(data: dict[str, Any]) -> RunConfig:
    """The config with these fields; a FinetuneConfig if it has a task.

    An unknown field is an error that names the most similar field.
    """
    kind = FinetuneConfig if "task" in data else RunConfig
    hints = typing.get_type_hints(kind)
    try:
        hints["model"] = _family(data.get("model", {}))
        hints["data"] = DataConfig if kind.finetunes else hints["model"].data
        return _build(kind, data, "", hints)
    except (TypeError, AttributeError) as error:
        raise UserError(f"these are not fields of a config: {error}") from None


def _family(model: dict[str, Any]) -> type[ModelConfig]:
    kinds = {kind.family: kind for kind in typing.get_args(ModelConfig)}
    name = model.get("family", "bert")
    if name not in kinds:
        raise UserError(f"model.family = {name!r}: {instead(name, kinds)}")
    return kinds[name]


def _build(kind: Any, data: Any, at: str, hints: dict[str, Any] | None = None) -> Any:
    """A value of the type `kind`; `at` is its dotted name in the config."""
    each, *more = typing.get_args(kind) or (None,)
    if more == [...] and dataclasses.is_dataclass(each) and isinstance(data, list):
        return tuple(_build(each, one, at) for one in data)
    if not dataclasses.is_dataclass(kind):
        return typed(kind, data, at.removesuffix("."))
    if not isinstance(data, dict):
        raise UserError(f"{at.removesuffix('.')} = {shown(data)} is not an object")
    hints = hints or typing.get_type_hints(kind)
    hints = {each.name: hints[each.name] for each in dataclasses.fields(kind)}
    for name in data.keys() - hints.keys():
        known = [f"{at}{each}" for each in hints]
        hint = meant(f"{at}{name}", known, "; ")
        raise UserError(f"unknown config field {at}{name}{hint}")
    return kind(**{k: _build(hints[k], v, f"{at}{k}.") for k, v in data.items()})


def difference(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted name → (old, new) of every field in which two configs differ."""
    a, b = (dict(_flat(dataclasses.asdict(config))) for config in (old, new))
    return {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}


def changes(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """`difference` without the fields that may change when a run resumes."""
    return {
        name: each
        for name, each in difference(old, new).items()
        if not any(fnmatch.fnmatch(name, free) for free in _FREE.split())
    }


def _flat(data: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(data, dict | list | tuple):
        yield at, data
        return
    for name, each in data.items() if isinstance(data, dict) else enumerate(data):
        yield from _flat(each, f"{at}.{name}" if at else str(name))
