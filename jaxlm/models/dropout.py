"""(key, shape) → which elements stay; `layers.py` and `elmo.py` drop the others.

The bits are those of `jax.random.bits`. On a CPU it makes them in a loop that goes over
the whole array five times; here the rounds are written out, one fused pass makes them
and decides, in a third of the time.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt

# Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, table 2; and the
# constant of the key schedule, section 3.2.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Dropout(nn.Module):
    """Zero each element with probability `rate`, scale the others up."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`x` itself at rate 0; no "dropout" key is needed then."""
        if self.rate == 0:
            return x
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(keep, x * (1 / kept(self.rate)), 0)


def keep_mask(
    key: Key[Array, ""], shape: tuple[int, ...], rate: float
) -> Bool[Array, "..."]:
    """True with probability `kept(rate)`, independently for each element of `shape`.

    Each 32-bit threefry word decides two elements, 16 bits each. Bits depend on the key
    and on the position in `shape` only, not on how the array is sharded; leading axes
    stay shardable.
    """
    *rows, width = shape
    words = random_words(key, (*rows, -(-width // 2)))
    lanes = jax.lax.bitcast_convert_type(words, jnp.uint16)
    lanes = lanes.reshape(*rows, -1)[..., :width]
    return lanes < _threshold(rate) if _threshold(rate) < 2**16 else lanes >= 0


def kept(rate: float) -> float:
    """The share that `keep_mask` keeps: 1 - rate to 16 bits."""
    return _threshold(rate) / 2**16


def _threshold(rate: float) -> int:
    return max(1, round((1 - rate) * 2**16))


def random_words(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """`jax.random.bits(key, shape, jnp.uint32)`, each made from its place alone."""
    if math.prod(shape) > 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    high, low = _threefry(jax.random.key_data(key), jnp.zeros_like(place), place)
    return high ^ low


def _threefry(key, x, y):
    """Threefry-2x32 of 20 rounds: two words of a counter → two random words."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(bits) | y >> np.uint32(32 - bits))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y
