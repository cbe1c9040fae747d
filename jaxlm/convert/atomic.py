"""A directory or file that appears whole or not at all, and digests of its files.

    with atomic_directory(out) as beside:      write into `beside`; then it is `out`
    with atomic_file(out) as beside:

A kill half-way leaves what was there before, and a `.tmp` beside it that may be
deleted. Two directories are exchanged in one step where the system can do that.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.text.json_files import read_json
from jaxlm.types import UserError

DIGESTS = "jaxlm_export.json"


@contextlib.contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `out`.

    Raises:
        UserError: `out` exists and was not written by this function.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / DIGESTS).is_file():
        raise UserError(f"{out} holds other files and is no export: name another --out")
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    beside.mkdir(parents=True)
    try:
        yield beside
        for each in [*beside.rglob("*"), beside]:
            _sync(each)
        if out.exists():
            _exchange(beside, out)
        else:
            beside.rename(out)
        _sync(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """A path to write to, whose file then takes the place of `out`."""
    if out.is_dir():
        raise UserError(f"{out} is a directory: name a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        yield beside
        _sync(beside)
        beside.replace(out)
        _sync(out.parent)
    finally:
        beside.unlink(missing_ok=True)


def _exchange(new: Path, old: Path) -> None:
    exchange, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD of <linux/fs.h>, <fcntl.h>
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "renameat2"):
        paths = here, os.fsencode(new), here, os.fsencode(old)
        if libc.renameat2(*paths, ctypes.c_uint(exchange)) == 0:
            return
    aside = old.with_name(f"{old.name}.{os.getpid()}.old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digests(directory: Path, origin: dict[str, Any]) -> dict[str, str]:
    """Name → SHA-256 of all files, stored beside where the export comes from."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(directory)): sha256_of(path) for path in files}
    content = {"format": 1, "origin": origin, "sha256": digests}
    (directory / DIGESTS).write_text(json.dumps(content, indent=2) + "\n")
    return digests


def check_digests(directory: Path, *names: str) -> None:
    """Compare files with the digests stored beside them, if there are any.

    Raises:
        UserError: one has changed.
    """
    stored = directory / DIGESTS
    digests = read_json(stored).get("sha256", {}) if stored.is_file() else {}
    for name in names:
        if name in digests and (directory / name).is_file():
            found = sha256_of(directory / name)
            if found != digests[name]:
                raise UserError(
                    f"{directory / name} is not as it was written: SHA-256 "
                    f"{found[:12]}…, {digests[name][:12]}… is stored in {DIGESTS}"
                )
