"""Chance by name: seed, purpose and row in → a jax key out; nothing is threaded.

    keys_B = key_for(seed, "mask", rows_B)           one key a row, on any topology
    dropout = key_for(seed, "dropout", step, micro)  one key a micro-batch

No key lives in the train state, so resuming, re-sharding, accumulating and evaluating
cannot shift a stream: the same name gives the same bits.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Integer, Key


def key_for(
    seed: int, name: str, *ids: int | Integer[Array, "..."] | Integer[np.ndarray, "..."]
) -> Key[Array, "..."]:
    """The key of `name` (and of each row of `ids`) under `seed`.

    Args:
        seed: the run's seed, below 2³².
        name: what the key is for, for example "mask" or "dropout".
        *ids: integers below 2³², folded in one after another. Arrays of one shape give
            an array of keys of that shape, one for each element.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for each in ids:
        key = _fold(key, each)
    return key


def _fold(key, data):
    shape = getattr(data, "shape", ())
    if shape == ():
        return jax.random.fold_in(key, data)
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, (None, 0))(key, data.reshape(-1)).reshape(
            shape
        )
    return jax.vmap(jax.random.fold_in)(key.reshape(-1), data.reshape(-1)).reshape(
        shape
    )
