"""Which elements dropout keeps, and the bits that decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.keys import hashed
from jaxlm.models.layers import Dropout, keep_mask, kept

KEY = jax.random.key(3)
bits = pytest.mark.parametrize("bits", [lambda key: key, hashed], ids=["", "hash"])


@bits
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_keep_mask_keeps_its_share(rate, bits):
    keep = keep_mask(bits(KEY), (64, 1000), rate)
    assert keep.dtype == bool
    assert abs(kept(rate) - (1 - rate)) < 2**-16
    spread = (rate * (1 - rate) / keep.size) ** 0.5
    assert abs(keep.mean() - (1 - rate)) < 4 * spread


@bits
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (4, 2, 9), (2, 3, 4, 8)])
def test_keep_mask_has_any_shape(shape, bits):
    assert keep_mask(bits(KEY), shape, 0.5).shape == shape


def test_keep_mask_is_all_true_next_to_rate_0():
    assert keep_mask(KEY, (8, 1000), 1e-6).all()


@bits
def test_keep_mask_elements_are_independent(bits):
    # Also of the neighbour that comes from the same word, and of other rows.
    keep = np.asarray(keep_mask(bits(KEY), (512, 512), 0.3), float) - 0.7
    for shift in [(0, 1), (0, 2), (1, 0), (1, 1), (0, 256), (256, 0)]:
        both = (keep * np.roll(keep, shift, (0, 1))).mean() / 0.21
        assert abs(both) < 4 / 512, f"elements {shift} apart correlate: {both:.4f}"
    key, next_key = bits(KEY), bits(jax.random.key(4))
    for each in (next_key, jax.random.fold_in(key, 1), jax.random.split(key)[0]):
        other = np.asarray(keep_mask(each, (512, 512), 0.3), float) - 0.7
        assert abs((keep * other).mean()) / 0.21 < 4 / 512
        # Nor does any row of it repeat one of ours, from any place on.
        found = np.fft.ifft(np.fft.fft(keep) * np.conj(np.fft.fft(other))).real
        assert abs(found).max() / 0.21 < 6 * 512**0.5


def test_hashed_bits_are_even():
    """χ² of each byte, and of the upper nibbles of neighbours along each axis."""
    words = np.asarray(jax.random.bits(hashed(KEY), (64, 64, 64), jnp.uint32))
    high = (words >> 28).astype(int)
    pairs = (
        high[1:],
        high[:-1],
        high[:, 1:],
        high[:, :-1],
        high[..., 1:],
        high[..., :-1],
    )
    found = [(words >> at) & 255 for at in (0, 8, 16, 24)]
    found += [16 * a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    for each in found:
        counts, mean = np.bincount(each.ravel(), minlength=256), each.size / 256
        excess = ((counts - mean) ** 2 / mean).sum() - 255
        assert abs(excess) < 4 * (2 * 255) ** 0.5


@pytest.mark.devices
@bits
@pytest.mark.parametrize("shape", [(16, 4, 6), (8, 4, 7)])
def test_keep_mask_is_the_same_sharded_and_not(shape, bits):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    whole = keep_mask(bits(KEY), shape, 0.1)
    for spec in (P("data"), P("data", "tensor"), P(("data", "tensor"))):
        sharding = NamedSharding(mesh, spec)
        draw = jax.jit(lambda key: keep_mask(key, shape, 0.1), out_shardings=sharding)
        cut = draw(bits(KEY))
        assert len(cut.sharding.device_set) == 8
        np.testing.assert_array_equal(cut, whole)


def test_dropout_scales_what_it_keeps_and_needs_no_key_at_rate_0():
    x = jnp.ones((50, 400))
    y = Dropout(0.1).apply({}, x, rngs={"dropout": KEY})
    np.testing.assert_allclose(y[y != 0], 1 / kept(0.1), rtol=1e-6)
    assert abs(y.mean() - 1) < 0.01
    assert Dropout(0.0).apply({}, x) is x
