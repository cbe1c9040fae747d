"""A run, model or task directory → what is in it."""

import os
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from jaxlm.checkpoints import Checkpoints, RunFiles, restore_params
from jaxlm.config import FinetuneConfig, ModelConfig, RunConfig, TextConfig
from jaxlm.config.checks import shown, typed
from jaxlm.convert import Dtype
from jaxlm.convert.model_directory import Loaded, is_model, read_model
from jaxlm.families import build, family_of
from jaxlm.files import local, place
from jaxlm.open.model import Model
from jaxlm.tasks.finetuned import Finetuned, best_seed, open_finetuned
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.tree import map_with_path
from jaxlm.types import UserError


def load(
    directory: str | os.PathLike,
    *,
    step: int | None = None,
    device: str | jax.Device | None = None,
    dtype: Dtype = "float32",
    stay: bool = False,
) -> Model:
    """The model of a directory, on a device ("cpu", "gpu:1"; default: JAX's), its
    parameters and products in `dtype`.

    A run directory gives the checkpoint of a `step` that it keeps, by default the
    newest, verified (`kept_steps` lists them). A model directory gives its
    weights, compared with the digests that `export` and `import` stored. With `stay`, a
    run's parameters stay on disk and are read and verified each time they are used,
    which suits an export (`checkpoints.StoredLeaf`).
    """
    path, there = local(_existing(directory)), _device(device)
    dtype = typed(Dtype, dtype, "dtype")

    def put(_: str, array: Any) -> jax.Array:
        return jax.device_put(array.astype(dtype), there)

    if is_model(path):
        if step is not None:
            raise UserError(f"{directory} is a model, only a run has a step {step}")
        found = read_model(path, put)
        parts = _run_of(found), found.params, found.tokenizer
        return Model(*parts, None, path, str(directory), dtype)
    run = read_config(directory)
    if isinstance(run, FinetuneConfig):
        raise UserError(f"{directory} is a model of a task: jaxlm predict uses it")
    files = path / "tokenizer"
    tokenizer = load_tokenizer(files)
    restored = restore_params(
        directory,
        abstract_params(build(run.model)),
        step=step,
        stored=stay,
        run=RunFiles(run, {"tokenizer_sha256": tokenizer.sha256}),
    )
    params = restored.state if stay else map_with_path(put, restored.state)
    return Model(run, params, tokenizer, restored.step, files, str(directory), dtype)


def _device(device: Any) -> jax.Device | None:
    if not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        known = ", ".join(f"{x.platform}:{x.id}" for x in jax.devices())
        raise UserError(f"device = {device!r}: there are {known}") from None


def kept_steps(directory: str | os.PathLike) -> list[int]:
    """The steps of the checkpoints that a run directory keeps; none of a model's."""
    return Checkpoints(_existing(directory)).steps()


def _existing(directory: Any) -> epath.Path:
    if not isinstance(directory, str | os.PathLike) or not str(directory):
        this = f"{shown(directory)} is not the path"
        raise UserError(f"{this} of a run or model directory")
    path = place(directory)
    if not path.is_dir():
        how = "does not exist: name a run or model directory"
        how = "is a file: name its directory" if path.exists() else how
        raise UserError(f"{path} {how}")
    return path


def _run_of(loaded: Loaded) -> RunConfig:
    """A run config for an imported model: its model and text settings, and defaults."""
    tokenizer, longest = loaded.tokenizer, loaded.config.max_length
    text = TextConfig(
        tokenizer=tokenizer.like,
        lowercase=getattr(tokenizer, "lowercase", False),
        unused=loaded.unused,
        words=tokenizer.options.get("words", "basic"),
        verbatim=not family_of(loaded.config).bidirectional,
    )
    return RunConfig(model=loaded.config, text=text, length=max(8, min(128, longest)))


def is_task(directory: str | os.PathLike) -> bool:
    """Whether a directory is a run of `jaxlm finetune`, or has its seeds."""
    path = best_seed(directory)
    if not (path / "config.json").is_file() or is_model(local(path)):
        return False
    return isinstance(read_config(path), FinetuneConfig)


def open_task(
    directory: str | os.PathLike, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """`open_finetuned`; UserError if the directory holds a model and not a run."""
    if is_model(local(directory)):
        raise UserError(
            f"{directory} is a model: fine-tune it first, with jaxlm finetune --init"
        )
    return open_finetuned(directory, columns)


def model_of(directory: str) -> tuple[ModelConfig, Tokenizer]:
    """The config and the tokenizer of the model in a run or model directory."""
    here = local(directory)
    if is_model(here):
        loaded = read_model(here, None)
        return loaded.config, loaded.tokenizer
    run = best_seed(directory)
    return read_config(run).model, load_tokenizer(local(run / "tokenizer"))
