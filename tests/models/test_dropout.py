"""Which elements dropout keeps, and the bits that decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.models.layers import Dropout, keep_mask, kept

KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_keep_mask_keeps_its_share(rate):
    keep = keep_mask(KEY, (64, 1000), rate)
    assert keep.dtype == bool
    assert abs(kept(rate) - (1 - rate)) < 2**-16
    spread = (rate * (1 - rate) / keep.size) ** 0.5
    assert abs(keep.mean() - (1 - rate)) < 4 * spread


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (4, 2, 9), (2, 3, 4, 8)])
def test_keep_mask_has_any_shape(shape):
    assert keep_mask(KEY, shape, 0.5).shape == shape


def test_keep_mask_is_all_true_next_to_rate_0():
    assert keep_mask(KEY, (8, 1000), 1e-6).all()


def test_keep_mask_elements_are_independent():
    # Also of the neighbour that comes from the same word, and of other rows.
    keep = np.asarray(keep_mask(KEY, (512, 512), 0.3), float) - 0.7
    for shift in [(0, 1), (0, 2), (1, 0), (1, 1), (0, 256), (256, 0)]:
        both = (keep * np.roll(keep, shift, (0, 1))).mean() / 0.21
        assert abs(both) < 4 / 512, f"elements {shift} apart correlate: {both:.4f}"
    other = np.asarray(keep_mask(jax.random.key(4), (512, 512), 0.3), float) - 0.7
    assert abs((keep * other).mean()) / 0.21 < 4 / 512


@pytest.mark.devices
@pytest.mark.parametrize("shape", [(16, 4, 6), (8, 4, 7)])
def test_keep_mask_is_the_same_sharded_and_not(shape):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    whole = keep_mask(KEY, shape, 0.1)
    for spec in (P("data"), P("data", "tensor"), P(("data", "tensor"))):
        sharding = NamedSharding(mesh, spec)
        cut = jax.jit(lambda key: keep_mask(key, shape, 0.1), out_shardings=sharding)(
            KEY
        )
        assert len(cut.sharding.device_set) == 8
        np.testing.assert_array_equal(cut, whole)


def test_dropout_scales_what_it_keeps_and_needs_no_key_at_rate_0():
    x = jnp.ones((50, 400))
    y = Dropout(0.1).apply({}, x, rngs={"dropout": KEY})
    np.testing.assert_allclose(y[y != 0], 1 / kept(0.1), rtol=1e-6)
    assert abs(y.mean() - 1) < 0.01
    assert Dropout(0.0).apply({}, x) is x
