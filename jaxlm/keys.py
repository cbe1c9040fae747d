"""Random numbers by name: equal names give equal bits, so no key is passed along.

    keys_B = key_for(seed, "mask", rows_B)           one key a row, on any topology
    dropout = key_for(seed, "dropout", step, micro)  one key a micro-batch
    bits_B = hashes(seed, "order", passes_B)         the same on the host, in numpy

No key is part of the train state, so resuming, re-sharding, accumulating and evaluating
cannot shift a stream. `hashes` and `permuted` handle all rows of a batch in one call:
Grain's own shuffle takes 16 µs a row, and 1 ms for a data set of 100 rows.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Integer, Key

Ids = int | Integer[Array, "..."] | Integer[np.ndarray, "..."]

_ROUNDS = 8


def key_for(seed: Ids, name: str, *ids: Ids) -> Key[Array, "..."]:
    """The key for `seed`, `name` and `ids`; arrays give an array of keys.

    The ids are folded in one after another. The seed and all ids are below 2³², and
    arrays have the same shape, which is that of the result. A program that takes the
    seed as an argument is compiled once for all seeds.
    """
    key = jnp.vectorize(jax.random.key)(jnp.asarray(seed, jnp.uint32))
    for each in (zlib.crc32(name.encode()), *ids):
        key = jnp.vectorize(jax.random.fold_in)(key, jnp.asarray(each, jnp.uint32))
    return key


def hashed(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key with the same number whose bits are hashes of positions, and cost less.

    Threefry gives each row of an array two random words. They enter the hash of a
    position in the row (the two multipliers are Wellons' lowbias32), one before and one
    after the first multiplication: rows are not shifted or permuted copies of others.
    """
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=HASH)


def _threefry(data: Array) -> Key[Array, ""]:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def _by_threefry(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which takes a key, for the number of a key."""

    def of_data(data: Array, *rest: Any) -> Array:
        return jax.random.key_data(function(_threefry(data), *rest))

    return of_data


def _hash_bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
    """`width` random bits, 16 or 32, for each element of `shape`."""
    rows, *rest = shape if len(shape) > 1 else (1, *shape)
    words = jax.random.bits(_threefry(data), (2, rows), jnp.uint32)
    first, second = words.reshape(2, rows, *(1,) * len(rest))
    at = jnp.uint32(0)
    for axis, size in enumerate(rest, 1):
        each = jax.lax.broadcasted_iota(jnp.uint32, (1, *rest), axis)
        at = at * jnp.uint32(size) + each
    x = at ^ first
    x = ((x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)) ^ second
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = (x ^ (x >> 16)).reshape(shape)
    return x if width == 32 else (x >> 16).astype(jnp.uint16)


HASH = define_prng_impl(
    key_shape=(2,),
    seed=_by_threefry(lambda key: key),  # unused: `hashed` makes its keys
    split=_by_threefry(jax.random.split),
    random_bits=_hash_bits,
    fold_in=_by_threefry(jax.random.fold_in),
    name="hash",
    tag="hash",
)


def hashes(seed: int, name: str, *numbers: np.ndarray) -> np.ndarray:
    """64 random bits for each element of `numbers`, integer arrays of equal shape."""
    bits = np.array([zlib.crc32(f"{seed}/{name}".encode())], np.uint64)
    for each in numbers:
        bits = _mix(_mix(bits) + each.astype(np.uint64))
    return bits


def permuted(
    places: np.ndarray, size: int | np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """The images of `places`, int64 [B], under permutations of 0 … `size` - 1.

    A Feistel network permutes the smallest square of at least `size` numbers; images
    past the end are permuted again (Black & Rogaway 2002). `keys`, from `hashes`, has a
    key for each place or one for all, and so has `size`.
    """
    out = places.astype(np.uint64)
    size = np.broadcast_to(np.asarray(size, np.uint64), out.shape)
    keys = np.broadcast_to(keys, out.shape)
    side = np.sqrt(size - 1).astype(np.uint64) + 1  # exact: sizes are below 2⁵²
    outside = np.arange(len(out))
    while len(outside):
        wide = side[outside]
        a, b = np.divmod(out[outside], wide)
        for turn in range(_ROUNDS):
            a, b = b, (a + _mix(keys[outside] + b * _ROUNDS + turn) % wide) % wide
        out[outside] = a * wide + b
        outside = outside[out[outside] >= size[outside]]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """64 bits, mixed as in SplitMix64 (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27)) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> 31)
