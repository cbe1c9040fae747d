"""A tree of arrays in → a short digest of every leaf out, made where the arrays are.

    digest(state)            {"params/mlm/bias": LeafDigest("float32", (8192,), …)}
    digest_array(array)      the same of one array on the host, a piece at a time
    digest_parts(…, parts)   the same of one that is never whole in memory
    state_sha256(digests)    one number for the whole tree

A lane is Σ mod 2³² over a bijective mix of (bits, flat index): addition does not mind
the order, so a leaf has the same digest however it is sharded, nothing is gathered, and
only four words a leaf leave the device. Changing one element changes every lane, for
the mix is one-to-one in the bits; what else goes wrong by accident slips through with
probability 2⁻¹²⁸. Not a defence against someone who wants to collide.
Next: `store.py` stores them and compares after a restore.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt

from jaxlm.tree import leaves

# Four starting points, any distinct numbers: digits of √2, √3, √5, √7 in base 2³².
LANES = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)


class LeafDigest(NamedTuple):
    """What a leaf is and the 128 bits that stand for its values."""

    dtype: str
    shape: tuple[int, ...]
    lanes: str  # 32 hexadecimal digits

    def __str__(self) -> str:
        return f"{self.dtype} [{','.join(map(str, self.shape))}] {self.lanes}"

    @classmethod
    def parse(cls, text: str) -> LeafDigest:
        """The digest that `str` wrote."""
        dtype, shape, lanes = text.split(" ")
        return cls(dtype, tuple(int(n) for n in shape[1:-1].split(",") if n), lanes)


def digest(tree: Any) -> dict[str, LeafDigest]:
    """Path → digest of every leaf, in one jitted pass; blocks until it is there."""
    flat = dict(leaves(tree))
    if not flat:
        return {}
    # Every process reads the result, so on a mesh it must lie whole on each device.
    meshes = {
        leaf.sharding.mesh
        for leaf in flat.values()
        if isinstance(getattr(leaf, "sharding", None), NamedSharding)
    }
    everywhere = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else None
    lanes = np.asarray(jax.jit(_lanes_of_leaves, out_shardings=everywhere)(flat))
    return {
        path: LeafDigest(str(leaf.dtype), tuple(leaf.shape), _text(row))
        for (path, leaf), row in zip(flat.items(), lanes, strict=True)
    }


def digest_array(array: np.ndarray) -> LeafDigest:
    """What `digest` gives of an array, which no device needs to hold whole."""
    return digest_parts(str(array.dtype), array.shape, [array])


def digest_parts(
    dtype: str, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> LeafDigest:
    """The same of an array that is read part after part.

    Args:
        dtype: of the array.
        shape: likewise.
        parts: that make it up, in the order of its elements.
    """
    lanes, start = np.zeros(len(LANES), np.uint32), 0
    for part in parts:
        bits = min(part.dtype.itemsize * 8, 32)
        flat = np.ascontiguousarray(part).reshape(-1).view(f"uint{bits}")
        for at in range(0, len(flat), PIECE):
            piece = flat[at : at + PIECE]
            count = len(piece)
            if count < PIECE:  # all pieces have one shape, so there is one program
                piece = np.pad(piece, (0, PIECE - count))
            begin = np.uint32((start + at) % 2**32)
            lanes += np.asarray(_piece_lanes(piece, begin, np.uint32(count)))
        start += len(flat)
    return LeafDigest(dtype, shape, _text(lanes))


def state_sha256(digests: Mapping[str, LeafDigest]) -> str:
    """SHA-256 over the sorted lines `path dtype shape digest`."""
    lines = sorted(f"{path} {each}\n" for path, each in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _lanes_of_leaves(flat: dict[str, Any]) -> UInt[Array, "leaves 4"]:
    return jnp.stack([leaf_lanes(flat[path]) for path in sorted(flat)])


def leaf_lanes(leaf: Shaped[Array, "..."]) -> UInt[Array, "4"]:
    """The four sums of one leaf."""
    words = _words(leaf)
    return _sums(_terms(words, _places(words.shape)))


@jax.jit
def _piece_lanes(piece: Any, begin: Any, count: Any) -> Any:
    """The four sums of `count` elements of a leaf from flat index `begin` on."""
    places = jax.lax.iota(jnp.uint32, len(piece))
    terms = _terms(piece.astype(jnp.uint32), places + begin)
    return _sums([jnp.where(places < count, term, jnp.uint32(0)) for term in terms])


PIECE = 2**22  # elements that are digested at once
_SEEDS = tuple(np.uint32(lane) for lane in LANES)


def _terms(words: Any, places: Any) -> list[Any]:
    """What each element adds to each lane.

    XOR with a mixed place, then mixed again: of two different elements at two places no
    mixed word survives a swap.
    """
    mixed = _mix(words ^ _mix(places))
    return [_mix(mixed + seed) for seed in _SEEDS]


def _sums(terms: list[Any]) -> UInt[Array, "4"]:
    # One reduction of four operands: four of one take ten times as long on a CPU.
    lanes = jax.lax.reduce(
        tuple(terms),
        (np.uint32(0),) * len(terms),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        tuple(range(terms[0].ndim)),
    )
    return jnp.stack(lanes)


def _text(lanes: np.ndarray) -> str:
    return "".join(f"{n:08x}" for n in lanes)


def _words(leaf: Any) -> Any:
    """The bits as uint32: a word an element, two along a new axis for 64-bit types."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = min(leaf.dtype.itemsize * 8, 32)
    unsigned = jax.lax.bitcast_convert_type(leaf, f"uint{bits}")
    return unsigned.astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> Any:
    """The flat index of every element, mod 2³²."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return place


def _mix(word: Any) -> Any:
    """A one-to-one scrambling of 32 bits (C. Wellons, lowbias32)."""
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * np.uint32(0x846CA68B)
    return word ^ (word >> 16)
