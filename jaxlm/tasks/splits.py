"""What a user names as a task's data → the training file and the dev file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jaxlm.types import UserError

_TRAIN = ("train",)
_DEV = ("dev", "valid", "validation", "val", "testa")


class Splits(NamedTuple):
    """Paths; no dev file: nothing is evaluated."""

    train: str
    dev: str


def find_splits(data: str, dev: str = "") -> Splits:
    """The files of `--data` and `--dev`.

    Args:
        data: the training file, or a directory that has one: of the files with "train"
            in their names the one that begins with it, else the first by name; or
            directories of seq.in and seq.out so named.
        dev: the dev file; empty: that of the directory, dev, valid(ation) or testa.

    Raises:
        UserError: a path is not there, or a directory has no training file.
    """
    path = Path(data)
    for each in (path, Path(dev)) if dev else (path,):
        if not each.exists():
            raise UserError(f"no file or directory {each}")
    if not path.is_dir() or (path / "seq.in").is_file():
        return Splits(data, dev)
    train = _find(path, _TRAIN)
    if not train:
        have = ", ".join(sorted(each.name for each in path.iterdir())[:8])
        raise UserError(
            f"{data} has no file of training data, train.*: it has {have or 'nothing'}"
        )
    return Splits(train, dev or _find(path, _DEV))


def _find(directory: Path, names: tuple[str, ...]) -> str:
    """The file that is best named so; empty where none is."""
    found = []
    for path in directory.iterdir():
        words = path.name.lower().replace("-", ".").replace("_", ".").split(".")
        for rank, name in enumerate(names):
            if name in words and (path.is_file() or (path / "seq.in").is_file()):
                found.append((words[0] != name, rank, path.name))
    return str(directory / min(found)[2]) if found else ""
