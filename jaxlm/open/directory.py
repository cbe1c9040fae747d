"""A run or model directory → a model to use, or parameters to train from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.checkpoints import Checkpoints
from jaxlm.config import FinetuneConfig, RunConfig, TextConfig
from jaxlm.convert.model_directory import Loaded, is_model, read_model
from jaxlm.families import build, family_of
from jaxlm.open.model import Model
from jaxlm.tasks.finetuned import Finetuned, best_seed, open_finetuned
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.tree import leaves, map_with_path
from jaxlm.types import UserError


def is_task(directory: str | Path) -> bool:
    """Whether it is a run of `jaxlm finetune`, or several seeds of one."""
    path = best_seed(directory)
    if not (path / "config.json").is_file() or is_model(path):
        return False
    return isinstance(read_config(path), FinetuneConfig)


def open_task(
    directory: str | Path, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """`open_finetuned`, which says of a model's directory what it is.

    Raises:
        UserError: it is no fine-tuning run, or has no checkpoint yet.
    """
    if is_model(Path(directory)):
        raise UserError(f"{directory} is a model: jaxlm finetune --init it first")
    return open_finetuned(directory, columns)


def load(directory: str | Path, *, stay: bool = False) -> Model:
    """The model of a directory, on the default device.

    Of a run the newest checkpoint, verified; of a model directory its weights, compared
    with the digests that `export` and `import` store.

    Args:
        directory: of either.
        stay: a run's parameters stay on disk, each to be read and verified when it is
            wanted (`checkpoints.StoredLeaf`): to pass over them once, as an export.

    Raises:
        UserError: it is neither, holds no checkpoint, or a damaged one.
    """
    if is_model(Path(directory)):
        loaded = read_model(Path(directory), lambda _, array: jax.device_put(array))
        run = _run_of(loaded)
        return Model(run, loaded.params, loaded.tokenizer, None, Path(directory))
    config = read_config(directory)
    if isinstance(config, FinetuneConfig):
        raise UserError(f"{directory} is a model of a task: jaxlm predict uses it")
    abstract = abstract_params(build(config.model))
    checkpoints = Checkpoints(directory)
    restore = checkpoints.stored if stay else checkpoints.restore
    restored = restore(abstract, part="params/")
    if restored is None:
        raise UserError(f"{directory} has no checkpoint yet")
    files = Path(directory) / "tokenizer"
    return Model(config, restored.state, load_tokenizer(files), restored.step, files)


def _run_of(loaded: Loaded) -> RunConfig:
    """Defaults round a model that no run of ours made."""
    tokenizer, longest = loaded.tokenizer, loaded.config.max_length
    text = TextConfig(
        tokenizer=tokenizer.kind,
        lowercase=getattr(tokenizer, "lowercase", False),
        unused=loaded.unused,
        words=tokenizer.options.get("words", "basic"),
        verbatim=not family_of(loaded.config).bidirectional,
    )
    return RunConfig(
        model=loaded.config,
        text=text,
        length=max(8, min(128, longest)),
    )


def initial(directory: str) -> Callable[[Any, Any], tuple[Any, list[str]]] | None:
    """What `train` starts from where `--init` names a model directory.

    Returns:
        (shapes, random parameters) → (parameters, placed by the shapes' shardings, and
        what to say of them); None where it names none.

    Raises:
        UserError: the model is of another shape; each tensor that differs.
    """
    if not directory or not is_model(Path(directory)):
        return None

    def parameters(abstract: Any, random: Any) -> tuple[Any, list[str]]:
        shapes = dict(leaves(abstract))

        def place(path: str, array: np.ndarray) -> Any:
            wanted = shapes.get(path)
            if wanted is None or tuple(wanted.shape) != array.shape:
                here = list(wanted.shape) if wanted is not None else "no such parameter"
                raise UserError(
                    f"--init {directory}: {path} is {list(array.shape)}, this config "
                    f"has {here}"
                )
            return jax.make_array_from_callback(
                array.shape, wanted.sharding, lambda index: array[index]
            )

        found = dict(leaves(read_model(Path(directory), place).params))
        new = [path for path in shapes if path not in found]
        params = map_with_path(lambda path, leaf: found.get(path, leaf), random)
        notes = [f"parameters of {directory}"]
        if new:
            notes.append(f"initialised at random, not in its files: {', '.join(new)}")
        return params, notes

    return parameters
