"""What a user names as a task's data → the training file and the dev file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxlm.text.tfds import TFDS, record_files, split_names
from jaxlm.types import UserError

_TRAIN = ("train",)
_DEV = ("dev", "valid", "validation", "val", "testa")


class DataFiles(NamedTuple):
    """Paths; no dev file: nothing is evaluated."""

    train: str
    dev: str


def find_data_files(data: str, dev: str = "") -> DataFiles:
    """The files of `--data` and `--dev`.

    Args:
        data: the training file, or a directory that has one: of the files with "train"
            in their names the one that begins with it, else the first by name; or
            directories of seq.in and seq.out so named. Or `tfds:NAME`, a dataset with a
            split so named, and `tfds:NAME:SPLIT`.
        dev: the dev file; empty: that of the directory, dev, valid(ation) or testa.

    Raises:
        UserError: a path is not there, or a directory has no training file.
    """
    for each in (data, dev) if dev else (data,):
        if not each.startswith(TFDS) and not Path(each).exists():
            raise UserError(f"no file or directory {each}")
    if data.startswith(TFDS):
        return _of_dataset(data, dev)
    path = Path(data)
    if not path.is_dir() or (path / "seq.in").is_file():
        return DataFiles(data, dev)
    train = _find(path, _TRAIN)
    if not train:
        have = ", ".join(sorted(each.name for each in path.iterdir())[:8])
        raise UserError(
            f"{data} has no file of training data, train.*: it has {have or 'nothing'}"
        )
    return DataFiles(train, dev or _find(path, _DEV))


def split_of(path: str) -> tuple[str, str]:
    """`tfds:NAME:SPLIT` → (`tfds:NAME`, SPLIT), which may be empty."""
    name, colon, split = path.removeprefix(TFDS).rpartition(":")
    if not colon or "/" in split:
        return path, ""
    return TFDS + name, split


def _of_dataset(data: str, dev: str) -> DataFiles:
    if split_of(data)[1]:
        return DataFiles(data, dev)
    names = split_names(data)
    found = [name for name in names if name.startswith(_DEV)]
    return DataFiles(f"{data}:train", dev or (f"{data}:{found[0]}" if found else ""))


def _find(directory: Path, names: tuple[str, ...]) -> str:
    """The file that is best named so; empty where none is."""
    found = []
    for path in directory.iterdir():
        words = path.name.lower().replace("-", ".").replace("_", ".").split(".")
        for rank, name in enumerate(names):
            if name in words and (path.is_file() or (path / "seq.in").is_file()):
                found.append((words[0] != name, rank, path.name))
    return str(directory / min(found)[2]) if found else ""


def named(path: str) -> str:
    """A path as a provenance has it: whole; a dataset's name as it is."""
    return path if not path or path.startswith(TFDS) else str(Path(path).resolve())


def files_of(path: str) -> list[Path]:
    """A file, or those of a directory or dataset; none of an empty path."""
    if not path:
        return []
    if path.startswith(TFDS):
        return [Path(each) for each in record_files(*split_of(path), fields=())]
    here = Path(path)
    return sorted(each for each in here.iterdir()) if here.is_dir() else [here]


def data_sha256(splits: DataFiles) -> str:
    """SHA-256 over those of all files of both."""
    total = hashlib.sha256()
    for path in splits:
        for each in files_of(path):
            total.update(hashlib.sha256(each.read_bytes()).digest())
        total.update(b"|")
    return total.hexdigest()
