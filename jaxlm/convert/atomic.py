"""A directory or file that appears whole or not at all, and digests of its files.

    with atomic(out) as beside:      write into `beside`; then it is `out`

A kill half-way leaves what was there before, and a `.tmp` beside it that may be
deleted. Two directories are exchanged in one step where the system can do that.
"""

import contextlib
import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.text.json_files import read_json
from jaxlm.text.sources import sha256
from jaxlm.types import UserError

DIGESTS = "jaxlm_export.json"


@contextlib.contextmanager
def atomic(out: Path, *, file: bool = False) -> Iterator[Path]:
    """A fresh directory, or a path for a file, that then takes the place of `out`.

    A directory that is no earlier export is a UserError.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and out.is_dir() == file:
        is_, name = ("directory", "file") if file else ("file", "directory")
        raise UserError(f"{out} is a {is_}: name a {name}")
    if out.is_dir() and any(out.iterdir()) and not (out / DIGESTS).is_file():
        raise UserError(f"{out} holds other files and is no export: name another --out")
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not file:
            beside.mkdir()
        yield beside
        for each in [*beside.rglob("*"), beside]:
            _sync(each)
        if out.is_dir():
            _exchange(beside, out)
        else:
            beside.replace(out)
        _sync(out.parent)
    finally:
        if file:
            beside.unlink(missing_ok=True)
        else:
            shutil.rmtree(beside, ignore_errors=True)


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


def write_digests(directory: Path, origin: dict[str, Any]) -> dict[str, str]:
    """Name → SHA-256 of all files, stored beside where the export comes from."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(directory)): sha256(path) for path in files}
    content = {"format": 1, "origin": origin, "sha256": digests}
    (directory / DIGESTS).write_text(json.dumps(content, indent=2) + "\n")
    return digests


def check_digests(directory: Path, *names: str) -> None:
    """Compare files with the digests stored beside them, if there are any."""
    stored = directory / DIGESTS
    digests = read_json(stored).get("sha256", {}) if stored.is_file() else {}
    for name in names:
        if name in digests and (directory / name).is_file():
            found = sha256(directory / name)
            if found != digests[name]:
                raise UserError(
                    f"{directory / name} is not as it was written: SHA-256 "
                    f"{found[:12]}…, {digests[name][:12]}… is stored in {DIGESTS}"
                )
