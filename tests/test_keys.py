"""Chance by name: one key a row, whatever batch or shape the row comes in."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.keys import key_for


def data(keys) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


ROWS = np.array([0, 1, 2, 7, 2**31, 2**32 - 1], np.uint32)


def test_vectorised_keys_are_the_scalar_ones():
    many = data(key_for(5, "mask", jnp.asarray(ROWS)))
    for row, key in zip(ROWS, many, strict=True):
        np.testing.assert_array_equal(data(key_for(5, "mask", jnp.uint32(row))), key)
    small = data(key_for(5, "mask", 7))
    np.testing.assert_array_equal(small, many[3])


def test_two_ids_are_folded_in_one_after_another():
    pairs = data(key_for(5, "mask", jnp.asarray(ROWS), jnp.asarray(ROWS[::-1].copy())))
    for i in range(len(ROWS)):
        one = key_for(5, "mask", jnp.uint32(ROWS[i]), jnp.uint32(ROWS[-1 - i]))
        np.testing.assert_array_equal(data(one), pairs[i])
    # A scalar beside an array stands for every element.
    np.testing.assert_array_equal(
        data(key_for(5, "mask", 3, jnp.asarray(ROWS)))[2],
        data(key_for(5, "mask", 3, jnp.uint32(ROWS[2]))),
    )


@pytest.mark.parametrize("cut", [1, 2, 3, 6])
def test_keys_do_not_depend_on_how_a_batch_is_cut(cut):
    whole = data(key_for(1, "mask", jnp.asarray(ROWS)))
    parts = [key_for(1, "mask", jnp.asarray(part)) for part in np.split(ROWS, cut)]
    np.testing.assert_array_equal(np.concatenate([data(each) for each in parts]), whole)
    shaped = key_for(1, "mask", jnp.asarray(ROWS.reshape(cut, -1)))
    assert shaped.shape == (cut, 6 // cut)
    np.testing.assert_array_equal(data(shaped.reshape(-1)), whole)


@pytest.mark.devices
def test_keys_under_jit_and_on_eight_devices_are_the_same():
    rows = np.arange(16, dtype=np.uint32)
    expected = data(key_for(1, "mask", jnp.asarray(rows)))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(
        rows, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    )
    keys = jax.jit(lambda r: jax.random.key_data(key_for(1, "mask", r)))(spread)
    np.testing.assert_array_equal(keys, expected)


def test_seed_name_and_every_id_tell_streams_apart():
    streams = [
        key_for(seed, name, *ids)
        for seed in (0, 1, 2**32 - 1)
        for name in ("mask", "pair", "dropout", "")
        for ids in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))
    ]
    assert len({data(key).tobytes() for key in streams}) == len(streams)


def test_keys_are_these_for_ever():
    """A changed stream would be another run under the same seed."""
    draws = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(
        key_for(42, "mask", jnp.arange(3, dtype=jnp.uint32))
    )
    assert [f"{n:08x}" for n in np.asarray(draws)] == GOLDEN


GOLDEN = ["e3840d9b", "f6df2fc5", "f2a4c99d"]


def test_another_process_draws_the_same():
    code = "import jax; from jaxlm.keys import key_for; key = key_for(42, 'mask', 0)"
    code += "; print(jax.random.bits(key))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) == int(GOLDEN[0], 16)
