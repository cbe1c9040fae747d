"""What a user names as a task's data → the training file and the dev file."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxlm.text.sources import TFDS, Digests, record_files, split_names
from jaxlm.types import UserError

_TRAIN = ("train",)
_DEV = ("dev", "valid", "validation", "val", "testa")


class DataFiles(NamedTuple):
    """Paths; without a dev file there is no evaluation."""

    train: str
    dev: str

    def provenance(self, digests: Digests) -> dict[str, str]:
        """Paths and the SHA-256 over the digests of all files.

        Files that are not in `digests` are read here.
        """
        total = hashlib.sha256()
        for path in self:
            for each in _files(path):
                total.update(digests.get(str(each)) or _sha256(each))
            total.update(b"|")
        return {
            "data": _resolved(self.train),
            "dev": _resolved(self.dev),
            "data_sha256": total.hexdigest(),
        }


def find_data_files(data: str, dev: str = "") -> DataFiles:
    """The files of `--data` and `--dev`.

    Args:
        data: the training file, or a directory of seq.in and seq.out; or a directory of
            either with "train" in the name, preferably in front; or `tfds:NAME`, a
            dataset with a split "train", or `tfds:NAME:SPLIT`.
        dev: the dev file; by default that of the directory: dev, valid(ation) or testa.

    Raises:
        UserError: a path does not exist, or a directory has no training file.
    """
    for each in (data, dev) if dev else (data,):
        if not each.startswith(TFDS) and not Path(each).exists():
            raise UserError(f"no file or directory {each}")
    if data.startswith(TFDS):
        return _dataset(data, dev)
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


def _dataset(data: str, dev: str) -> DataFiles:
    if split_of(data)[1]:
        return DataFiles(data, dev)
    found = [name for name in split_names(data) if name.startswith(_DEV)]
    return DataFiles(f"{data}:train", dev or (f"{data}:{found[0]}" if found else ""))


def _find(directory: Path, names: tuple[str, ...]) -> str:
    """The best match for the names in a directory, "" without one."""
    found = []
    for path in directory.iterdir():
        words = path.name.lower().replace("-", ".").replace("_", ".").split(".")
        for rank, name in enumerate(names):
            if name in words and (path.is_file() or (path / "seq.in").is_file()):
                found.append((words[0] != name, rank, path.name))
    return str(directory / min(found)[2]) if found else ""


def _resolved(path: str) -> str:
    return path if not path or path.startswith(TFDS) else str(Path(path).resolve())


def _files(path: str) -> list[Path]:
    """A file, or the files of a directory or dataset; none for an empty path."""
    if not path:
        return []
    if path.startswith(TFDS):
        return [Path(each) for each in record_files(*split_of(path), fields=())]
    return sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
