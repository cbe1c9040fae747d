"""A leaf of a checkpoint on disk → an array on the devices or in numpy's memory.

A leaf is a zarr array in a directory of its own, `state/<path of the leaf>`; what is
wrong with it names it. Next: `store.py`, which has all of a state.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath

from jaxlm.checkpoints.digests import PIECE, LeafDigest, digest_parts
from jaxlm.checkpoints.manifest import UnsoundError

STATE = "state"  # directory of the leaves in that of a checkpoint
_LARGE = 2**24  # bytes


@dataclass(frozen=True)
class StoredLeaf:
    """A leaf that stays on disk: numpy reads it, verified each time.

    `np.asarray` raises UnsoundError where it is not what was saved.
    """

    step: epath.Path  # the checkpoint's directory
    path: str
    digest: LeafDigest

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return self.digest.shape

    @property
    def dtype(self) -> np.dtype:
        """As an array's."""
        return jnp.dtype(self.digest.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values."""
        return np.array(self.verified(), dtype, copy=copy)

    def verified(self) -> Any:
        """The leaf, to be indexed and then made an array.

        A local file is verified part after part, and read again as far as it is asked
        for: never whole in memory, which on a fresh machine can cost more than reading.
        Any other comes whole.

        Raises:
            UnsoundError: it is not what was saved.
        """
        local = not str(self.step).startswith("gs://")
        try:
            array = _open(self.step / STATE / self.path, self, mapped=local)
            leaf = array if local else array.read().result()
            found = digest_parts(self.digest.dtype, self.shape, _parts(leaf))
        except Exception as error:
            raise damaged(self.step, self.path, error) from error
        check_digest(self.step, self.path, found, self.digest)
        return leaf


def _parts(leaf: Any) -> Iterator[np.ndarray]:
    """Of an array in memory or on disk, one behind the other."""
    if not leaf.shape:
        yield np.asarray(leaf)
        return
    rows = max(1, PIECE // max(1, math.prod(leaf.shape[1:])))
    for start in range(0, leaf.shape[0], rows):
        yield np.asarray(leaf[start : min(start + rows, leaf.shape[0])])


def _open(path: epath.Path, leaf: Any, *, mapped: bool = False) -> ts.TensorStore:
    """One leaf on disk, of the shape and dtype of `leaf`.

    By TensorStore, which Orbax stands on: `ocp.load` reads all leaves in one event
    loop, and when one fails its error names none while the others print theirs.

    Args:
        path: of its directory.
        leaf: what it must be.
        mapped: map a local file and do not read it into memory.
    """
    place: dict[str, Any] = {"driver": "file", "path": f"{path}/"}
    if mapped:
        place["file_io_mode"] = {"mode": "memmap"}
    if str(path).startswith("gs://"):
        bucket, _, inside = str(path).removeprefix("gs://").partition("/")
        place = {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}
    spec = {"driver": "zarr3", "kvstore": place, "fill_missing_data_reads": False}
    array = ts.open(spec, read=True).result()
    if array.shape != leaf.shape or array.dtype.numpy_dtype != leaf.dtype:
        raise ValueError(f"its zarr.json says {array.dtype.name}{list(array.shape)}")
    return array


def read_leaf(path: epath.Path, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """One leaf, each device's part of it read once.

    Args:
        path: of its directory.
        leaf: its shape, dtype and sharding.
    """
    array = _open(path, leaf)
    parts: dict[str, Any] = {}  # devices that hold the same part share one read

    def part(index: Any) -> Any:
        name = str(index)
        if name not in parts:
            parts[name] = array[index].read().result()
        return parts[name]

    found = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    if found.nbytes >= _LARGE:
        # JAX lets go of what it has copied at the next collection only; by then the
        # next leaf would be there too, and the whole state twice in memory.
        found.block_until_ready()
        parts.clear()
        gc.collect()
    return found


def damaged(step: epath.Path, path: str, error: Exception) -> UnsoundError:
    """What to raise where the leaf `path` of the checkpoint `step` gave `error`."""
    return UnsoundError(
        f"{step} is damaged: leaf {path} cannot be read: {first_line(error)}"
    )


def check_digest(
    step: epath.Path, path: str, found: LeafDigest, saved: LeafDigest
) -> None:
    """Raise UnsoundError where a leaf is not what was saved."""
    if found != saved:
        raise UnsoundError(
            f"{step} is damaged: leaf {path} has digest {found.lanes}, {saved.lanes} "
            "was saved"
        )


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    text = (str(error).strip().splitlines() or [""])[0].partition(" [tensorstore_")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
