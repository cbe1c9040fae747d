"""Paths or dataset names given by a user → the training and dev files of a task.

What reads them: `tables.py`, `tags.py`, `questions.py`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from jaxlm.files import absolute, is_remote, listed, place
from jaxlm.text import sources
from jaxlm.text.sources import TFDS, Digests, open_file
from jaxlm.types import UserError

DEV = ("dev", "valid", "validation", "val", "testa")


class DataFiles(NamedTuple):
    """The paths of the training and the dev file, which may be ""."""

    train: str
    dev: str

    def provenance(
        self, digests: Digests, dev_columns: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """Name → value for the provenance: both paths, and one SHA-256 over all files
        and the dev file's own columns.

        Files that are not in `digests` are read here.
        """
        total = hashlib.sha256()
        for path in self:
            for each in _files(path):
                if each not in digests:
                    with open_file(each) as file:
                        digests[each] = hashlib.file_digest(file, "sha256").digest()
                total.update(digests[each])
            total.update(b"|")
        if dev_columns:
            total.update(repr(sorted(dev_columns.items())).encode())
        data, dev = map(resolved, self)
        return {"data": data, "dev": dev, "data_sha256": total.hexdigest()}


def resolved(path: str) -> str:
    """The path of a file as the provenance has it."""
    if not path or path.startswith(TFDS):
        return path
    return absolute(path) if is_remote(path) else str(Path(path).resolve())


def _files(path: str) -> list[str]:
    """The files of a path: one file, or all of a directory or dataset; "" has none."""
    if path.startswith(TFDS):
        return sources.record_files(*split_of(path), fields=())
    if path and place(path).is_dir():
        return [str(each) for each in listed(path) if each.is_file()]
    return [path] if path else []


def find_data_files(data: str, dev: str = "") -> DataFiles:
    """The files of `--data` and `--dev`.

    `data` is a training file; or a directory with seq.in and seq.out; or a directory
    that contains either of these, with "train" in its name; or a dataset `tfds:NAME`
    with a split "train"; or `tfds:NAME:SPLIT`. Without `dev`, the dev file is the one
    named dev, valid(ation) or testa in the directory or dataset.
    """
    for each in (data, dev) if dev else (data,):
        if not each.startswith(TFDS) and not place(each).exists():
            raise UserError(f"no file or directory {each}")
    if data.startswith(TFDS):
        if split_of(data)[1]:
            return DataFiles(data, dev)
        found = [name for name in sources.split_names(data) if name.startswith(DEV)]
        dev = dev or (f"{data}:{found[0]}" if found else "")
        return DataFiles(f"{data}:train", dev)
    path = place(data)
    if not path.is_dir() or (path / "seq.in").is_file():
        return DataFiles(data, dev)
    train = _find(path, ("train",))
    if not train:
        have = ", ".join([each.name for each in listed(path)][:8]) or "nothing"
        remedy = "name the files by --data FILE --dev FILE"
        raise UserError(f"{data} has no train.*: it has {have}; {remedy}")
    return DataFiles(train, dev or _find(path, DEV))


def no_dev_note(files: DataFiles) -> str:
    """What it means that there is no dev file, and the one that may be meant."""
    said = "no dev file: nothing is evaluated, and the last checkpoint is the model"
    parent = place(files.train).parent
    beside = "" if files.train.startswith(TFDS) else _find(parent, DEV)
    return f"{said}; {beside} lies beside it, pass --dev" if beside else said


def _find(directory: epath.Path, names: tuple[str, ...]) -> str:
    """The path in a directory that matches the names best; "" if none matches."""
    found = []
    for path in listed(directory):
        words = path.name.lower().replace("-", ".").replace("_", ".").split(".")
        for rank, name in enumerate(names):
            if name in words and (path.is_file() or (path / "seq.in").is_file()):
                found.append((words[0] != name, rank, path.name))
    return str(directory / min(found)[2]) if found else ""


def split_of(path: str) -> tuple[str, str]:
    """`tfds:NAME:SPLIT` → (`tfds:NAME`, SPLIT); without a split, SPLIT is ""."""
    name, colon, split = path.removeprefix(TFDS).rpartition(":")
    return (TFDS + name, split) if colon and "/" not in split else (path, "")
