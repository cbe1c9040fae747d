"""What happens to files: a flipped bit, a torn end, no bytes, no file."""

import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

Harm = Callable[[Path, random.Random], str]


def flip(path: Path, draw: random.Random) -> str:
    """Flip one bit; returns which."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit % 8} of byte {bit // 8}"


def tear(path: Path, draw: random.Random) -> str:
    """Cut a file somewhere, as a full disk or a lost machine does."""
    content = path.read_bytes()
    left = draw.randrange(1, len(content)) if len(content) > 1 else 0
    path.write_bytes(content[:left])
    return f"cut after {left} of {len(content)} bytes"


def empty(path: Path, _: random.Random) -> str:
    """Leave no byte."""
    path.write_bytes(b"")
    return "emptied"


def remove(path: Path, _: random.Random) -> str:
    """Leave no file."""
    path.unlink()
    return "removed"


def kinds_of_files(directory: Path) -> dict[str, list[Path]]:
    """Relative paths of files that are not empty, grouped by what they hold.

    Files of leaves, shards and steps differ in names and numbers alone, so a kind is
    a path with N for each number and * for the directories of a leaf.
    """
    found = defaultdict(list)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = str(path.relative_to(directory))
            leaf = re.sub(r"(state|carry)/.+/(zarr\.json|c/.*|c)$", r"\1/*/\2", name)
            found[re.sub(r"\d+", "N", leaf)].append(path.relative_to(directory))
    return dict(found)


def turns(directory: Path, draw: random.Random) -> Iterator[Path]:
    """Files without end: each kind in turn, in a random order; any file of a kind."""
    kinds = list(kinds_of_files(directory).values())
    draw.shuffle(kinds)
    while True:
        yield from (draw.choice(files) for files in kinds)


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a directory at `target`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target
