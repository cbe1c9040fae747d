"""A tree of arrays → the digest of 128 bits and the largest value of every leaf.

Both are computed on the devices, in one pass.

A digest has four lanes. A lane hashes each element with its flat index to 32 bits and
sums the hashes mod 2³². A sum does not depend on its order, so a leaf has the same
digest under any sharding, nothing is gathered, and only four words per leaf leave the
device. A change of one element changes every lane, because the hash is one-to-one in
its bits. Other accidents go unseen with probability 2⁻¹²⁸; attacks are not prevented.
Next: `store.py` stores digests and compares them after a restore.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped, UInt

from jaxlm.tree import leaves

# One starting point a lane, any distinct numbers: √2, √3, √5, √7 in base 2³².
_SEEDS = tuple(map(np.uint32, (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)))


class LeafDigest(NamedTuple):
    """The type and shape of a leaf, and a 128-bit hash of its values."""

    dtype: str
    shape: tuple[int, ...]
    lanes: str  # 32 hexadecimal digits

    def __str__(self) -> str:
        return f"{self.dtype} [{','.join(map(str, self.shape))}] {self.lanes}"

    @classmethod
    def parse(cls, text: str) -> "LeafDigest":
        """The digest whose `str` is `text`."""
        dtype, shape, lanes = text.split(" ")
        return cls(dtype, tuple(int(n) for n in shape[1:-1].split(",") if n), lanes)


def digest(tree: Any) -> dict[str, LeafDigest]:
    """Path → digest of every leaf, in one jitted call; waits for the result."""
    return measure(tree)[0]


def measure(tree: Any) -> tuple[dict[str, LeafDigest], dict[str, float]]:
    """Path → digest, and path → largest absolute value, of every leaf.

    Both come from one jitted call. The largest value is NaN if any is NaN; of integers
    it is 0.
    """
    flat = dict(leaves(tree))
    if not flat:
        return {}, {}
    # Every process reads the result, so on a mesh it must lie whole on each device.
    shardings = [getattr(leaf, "sharding", None) for leaf in flat.values()]
    meshes = {each.mesh for each in shardings if isinstance(each, NamedSharding)}
    everywhere = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
    found = jax.device_get(jax.jit(_reduce_leaves, out_shardings=everywhere)(flat))
    digests = {
        path: LeafDigest(
            str(leaf.dtype), tuple(leaf.shape), "".join(f"{n:08x}" for n in row)
        )
        for (path, leaf), row in zip(flat.items(), found[0], strict=True)
    }
    return digests, dict(zip(flat, found[1].tolist(), strict=True))


def state_sha256(digests: Mapping[str, LeafDigest]) -> str:
    """SHA-256 over the sorted lines `path dtype shape digest`."""
    lines = sorted(f"{path} {each}\n" for path, each in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _reduce_leaves(
    flat: dict[str, Any],
) -> tuple[UInt[Array, "leaves 4"], Float[Array, "leaves"]]:
    lanes, largest = zip(*(lanes_of(flat[path]) for path in sorted(flat)), strict=True)
    return jnp.stack(lanes), jnp.stack(largest)


def lanes_of(leaf: Shaped[Array, "..."]) -> tuple[UInt[Array, "4"], Float[Array, ""]]:
    """The four lanes and the largest absolute value of a leaf.

    The leaf is not reshaped, which could gather it.
    """
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    else:  # a 64-bit element becomes two words along a new axis
        bits = min(leaf.dtype.itemsize * 8, 32)
        words = jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    # XOR with a mixed index, then mixed again, so that swapped elements are seen.
    mixed = _mix(words ^ _mix(index))
    size = jnp.zeros(words.shape, jnp.float32)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        new_axes = tuple(range(leaf.ndim, words.ndim))
        size += jnp.expand_dims(jnp.abs(leaf.astype(jnp.float32)), new_axes)

    def add(a: Any, b: Any) -> Any:
        sums = (x + y for x, y in zip(a[:-1], b[:-1], strict=True))
        return *sums, jnp.maximum(a[-1], b[-1])

    # One reduction of five operands: five of one take ten times as long on a CPU.
    *lanes, largest = jax.lax.reduce(
        (*(_mix(mixed + seed) for seed in _SEEDS), size),
        (*(np.uint32(0) for _ in _SEEDS), np.float32(0)),
        add,
        tuple(range(words.ndim)),
    )
    return jnp.stack(lanes), largest


def _mix(word: Any) -> Any:
    """A one-to-one scrambling of 32 bits (C. Wellons, lowbias32)."""
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)
