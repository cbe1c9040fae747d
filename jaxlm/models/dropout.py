"""(key, rate) → which elements stay."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


class Drop(NamedTuple):
    """Dropout of one array: zero each element with probability `rate`."""

    key: Key[Array, ""]
    rate: float

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The elements that stay are scaled up."""
        keep = keep_mask(self.key, x.shape, self.rate)
        return jnp.where(keep, x * (1 / kept(self.rate)), 0)


class Dropout(nn.Module):
    """Dropout named by the module's path; off at rate 0, where no key is needed."""

    rate: float

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Drop elements of `x`."""
        drop = self.draw()
        return x if drop is None else drop(x)

    def draw(self) -> Drop | None:
        """The next dropout, for a function that applies it; None at rate 0."""
        return Drop(self.make_rng("dropout"), self.rate) if self.rate else None


def keep_mask(
    key: Key[Array, ""], shape: tuple[int, ...], rate: float
) -> Bool[Array, "..."]:
    """True with probability `kept(rate)`, independently for each element of `shape`.

    Each random 32-bit word decides two elements, 16 bits each. Bits depend on the key
    and on the position in `shape` only, not on how the array is sharded; leading axes
    stay shardable.
    """
    *rows, width = shape
    words = jax.random.bits(key, (*rows, -(-width // 2)), jnp.uint32)
    lanes = jax.lax.bitcast_convert_type(words, jnp.uint16)
    lanes = lanes.reshape(*rows, -1)[..., :width]
    return lanes < _threshold(rate) if _threshold(rate) < 2**16 else lanes >= 0


def kept(rate: float) -> float:
    """The share that `keep_mask` keeps: 1 - rate to 16 bits."""
    return _threshold(rate) / 2**16


def _threshold(rate: float) -> int:
    return max(1, round((1 - rate) * 2**16))
