"""The arrays of a corpus on disk: sharded zarr 3, read and written by TensorStore."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from jaxlm.text.units import ARRAYS
from jaxlm.types import UserError

TYPES = "types.txt"  # words of ids from `vocab_size` on, one a line
SHARD = 1 << 25  # bytes of a shard, which is one file; it is written at once
CHUNK = 1 << 13  # rows that are packed, and read, together
_CACHE = 32 << 20  # bytes kept for random reads, above all the shards' indices

Layout = dict[str, tuple[np.dtype, tuple[int, ...]]]


def layout(counts: Mapping[str, int], ids: np.dtype) -> Layout:
    """The type and shape of each array of a corpus, by how much of each it has."""
    place = np.dtype(np.int64)
    return {
        "tokens": (ids, (counts["tokens"],)),
        "marks": (np.dtype(np.uint8), (counts["tokens"],)),
        "sentences": (place, (counts["sentences"],)),
        "documents": (place, (counts["documents"], 3)),
    }


def write_array(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], pieces: Iterator[np.ndarray]
) -> Iterator[int]:
    """Write an array from its pieces; yields the bytes of each shard."""
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    shard = SHARD // row_bytes // CHUNK * CHUNK
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 3}}
    sharding = {
        "chunk_shape": [CHUNK, *shape[1:]],
        "codecs": [little, zstd, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    grid = {"chunk_shape": [shard, *shape[1:]]}
    metadata = {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": grid},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {**_spec(path), "metadata": metadata}
    array = ts.open(spec, create=True, delete_existing=True).result()
    waiting = np.empty((0, *shape[1:]), dtype)
    for at in range(0, shape[0], shard):
        size = min(shard, shape[0] - at)
        while len(waiting) < size:
            waiting = np.concatenate([waiting, next(pieces)])
        array[at : at + size].write(waiting[:size]).result()
        waiting = waiting[size:]
        yield size * row_bytes


def _spec(path: Path) -> dict[str, Any]:
    # TensorStore takes no "..".
    file = {"driver": "file", "path": os.path.abspath(path)}
    return {"driver": "zarr3", "kvstore": file}


@contextlib.contextmanager
def damage(path: Path | str) -> Iterator[None]:
    """Say in one line what TensorStore finds wrong with the files in `path`."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = str(error).split(" [")[0]
        raise UserError(f"corpus files in {path} are damaged: {reason}") from None


def open_array(path: Path) -> ts.TensorStore:
    """An array that any thread may read; UserError if there is none."""
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE}})
    with damage(path):
        return ts.open(_spec(path), read=True, context=context).result()


def read_array(path: Path) -> np.ndarray:
    """A whole array; UserError if it cannot be read."""
    array = open_array(path)
    with damage(path):
        return array.read().result()


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """(relative path, path) of each file of the arrays and the tokenizer, in order."""
    if (directory / TYPES).is_file():
        yield TYPES, directory / TYPES
    for name in (*ARRAYS, "tokenizer"):
        for path in sorted((directory / name).rglob("*")):
            if path.is_file():
                yield path.relative_to(directory).as_posix(), path


def sha256(path: Path) -> str:
    """Digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
