"""A leaf of a checkpoint on disk → an array on the devices or in numpy.

Leaves are read by TensorStore, as in Orbax, but one by one: `ocp.load` reads all leaves
at once, and its error does not say which leaf failed. Errors here name the leaf.
Next: `store.py`, which reads all leaves of a state.
"""

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath
from jax.experimental import multihost_utils

from jaxlm.checkpoints.digests import LeafDigest, measure
from jaxlm.files import is_remote
from jaxlm.types import UserError

STATE = "state"  # directory of the leaves in that of a checkpoint
CHUNK = 2**26  # bytes of an object on gs:// at most
_LARGE = 2**24  # bytes


class UnsoundError(UserError):
    """A checkpoint that does not hold what was saved."""


@dataclass(frozen=True)
class StoredLeaf:
    """A leaf that stays on disk; `np.asarray` reads and verifies it each time."""

    step: epath.Path  # the checkpoint's directory
    path: str
    digest: LeafDigest

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.digest.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the array."""
        return jnp.dtype(self.digest.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with self._named_errors():
            found = self._open().read().result()
        digests, largest = measure({"": found})
        self.check(digests[""], largest[""])
        return np.array(found, dtype, copy=copy)

    def place(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """The leaf on devices, not verified; replicated parts are read once."""
        parts: dict[str, Any] = {}

        def part(index: Any) -> Any:
            if str(index) not in parts:
                parts[str(index)] = array[index].read().result()
            return parts[str(index)]

        with self._named_errors():
            array = self._open()
            found = jax.make_array_from_callback(self.shape, sharding, part)
            if found.nbytes >= _LARGE:
                # JAX frees what it has copied at the next collection only; by then the
                # next leaf would be there too, and the whole state twice in memory.
                found.block_until_ready()
                parts.clear()
                gc.collect()
        return found

    def check(self, found: LeafDigest, largest: float, bound: float = math.inf) -> None:
        """Raise UnsoundError if `found` is not the digest that was saved, or the
        largest absolute value is not finite or above the bound.
        """
        if found != self.digest:
            saved = self.digest.lanes
            raise self._damaged(f"has digest {found.lanes}, {saved} was saved")
        if not (math.isfinite(largest) and largest <= bound):
            how = f"has values up to {largest:g}, above {bound:g}"
            if not math.isfinite(largest):
                how = "has NaN or infinite values"
            raise UnsoundError(f"{self.step} is of a diverged run: {self.path} {how}")

    def _damaged(self, how: str) -> UnsoundError:
        return UnsoundError(f"{self.step} is damaged: leaf {self.path} {how}")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._damaged(f"cannot be read: {first_line(error)}") from error

    def _open(self) -> ts.TensorStore:
        path = str(self.step / STATE / self.path)
        place: dict[str, Any] = {"driver": "file", "path": f"{path}/"}
        # Of a file, only the pages of the part that is read come in.
        place["file_io_mode"] = {"mode": "memmap"}
        spec = {"driver": "zarr3", "kvstore": place, "fill_missing_data_reads": False}
        if is_remote(path):
            bucket, _, inside = path.removeprefix("gs://").partition("/")
            place = {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}
            # Objects come in whole: several parts of one are read at once.
            cache = {"cache_pool": {"total_bytes_limit": 4 * CHUNK}}
            spec |= {"kvstore": place, "context": cache}
        array = ts.open(spec, read=True).result()
        if array.shape != self.shape or array.dtype.numpy_dtype != self.dtype:
            found = f"{array.dtype.name}{list(array.shape)}"
            raise ValueError(f"its zarr.json says {found}")
        return array


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    text = (str(error).strip().splitlines() or [""])[0].partition(" [tensorstore_")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def read_leaves(
    stored: Mapping[str, StoredLeaf],
    shardings: Mapping[str, jax.sharding.Sharding],
    bounds: Mapping[str, float],
) -> dict[str, jax.Array]:
    """The leaves that `shardings` names, on the devices and verified: a host reads the
    parts that its devices hold. UnsoundError on all hosts if one cannot read a leaf."""
    read, damage = {}, None
    try:
        for name, sharding in shardings.items():
            read[name] = stored[name].place(sharding)
    except UnsoundError as error:
        damage = error
    if _on_any_host(damage is not None, shardings):
        step = next(iter(stored.values())).step
        raise damage or UnsoundError(f"{step} is damaged: another host cannot read it")
    digests, largest = measure(read)
    for name, found in digests.items():
        stored[name].check(found, largest[name], bounds[name])
    return read


def _on_any_host(here: bool, shardings: Mapping[str, jax.sharding.Sharding]) -> bool:
    """Whether `here` is true on any host that reads; hosts that take different branches
    hang. A host that reads for its own devices alone asks nobody."""
    if all(each.is_fully_addressable for each in shardings.values()):
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())
