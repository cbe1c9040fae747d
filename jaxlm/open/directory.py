"""A run or model directory → a model to use, or parameters to train from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxlm.checkpoints import restore_params
from jaxlm.config import FinetuneConfig, ModelConfig, RunConfig, TextConfig
from jaxlm.convert.model_directory import Loaded, is_model, read_model
from jaxlm.families import build, family_of
from jaxlm.open.model import Model
from jaxlm.tasks.finetuned import Finetuned, best_seed, open_finetuned
from jaxlm.tasks.model import OWN
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.state import Pretrained, abstract_params
from jaxlm.train.workdir import read_config
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
    restored = restore_params(directory, abstract, stored=stay)
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


def model_of(directory: str) -> tuple[ModelConfig, Tokenizer]:
    """What `--init` continues: the configuration of a model and its tokenizer."""
    if is_model(Path(directory)):
        loaded = read_model(Path(directory), None)
        return loaded.config, loaded.tokenizer
    run = best_seed(directory)
    return read_config(run).model, load_tokenizer(run / "tokenizer")


def pretrained(directory: str) -> Pretrained:
    """The parameters of `--init`, without those of a task; a run's stay on disk."""
    check_init(directory)
    if is_model(Path(directory)):
        read = read_model(Path(directory), lambda _, leaf: leaf)
        return Pretrained(directory, read.params)
    run = directory if "://" in directory else str(best_seed(directory))
    found = restore_params(run, stored=True)
    params = {name: each for name, each in found.state.items() if name not in OWN}
    return Pretrained(f"{run} at step {found.step}", params)


def check_init(directory: str) -> None:
    """Refuse a local directory that is not there."""
    if "://" not in directory and not Path(directory).is_dir():
        raise UserError(f"--init {directory}: there is no such directory")
