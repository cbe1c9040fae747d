"""Digests: equal under any sharding, changed by any change, for every stored dtype."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.checkpoints.digests import (
    LeafDigest,
    digest,
    lanes_of,
    state_sha256,
)

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "bool")


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def of(array) -> LeafDigest:
    return digest({"x": array})["x"]


def random_array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Every bit pattern of the type may occur, NaNs among them; bool stays 0 and 1."""
    draw = np.random.default_rng(seed)
    if dtype == "bool":
        return draw.integers(0, 2, shape).astype(bool)
    size = jnp.dtype(dtype).itemsize
    raw = draw.integers(0, 256, (*shape, size), np.uint8)
    return raw.view(jnp.dtype(dtype)).reshape(shape)


@pytest.mark.devices
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_digest_is_the_same_under_any_sharding(mesh, dtype):
    host = random_array(dtype, (8, 16, 24))
    whole = of(jnp.asarray(host))
    specs = [P("b", "a"), P(None, None, ("b", "a"))]
    if dtype == "float32":
        specs += [P(), P("a"), P(("a", "b"))]
    for spec in specs:
        assert of(jax.device_put(host, NamedSharding(mesh, spec))) == whole, spec


@pytest.mark.devices
def test_leaves_of_one_tree_may_lie_differently(mesh):
    host = {
        "a": random_array("float32", (8, 4)),
        "b": {"c": random_array("int8", (16,))},
    }
    spread = {
        "a": jax.device_put(host["a"], NamedSharding(mesh, P("b", "a"))),
        "b": {"c": jax.device_put(host["b"]["c"], NamedSharding(mesh, P("a")))},
        "step": jnp.int32(3),
    }
    digests = digest(spread)
    assert digests == digest({**host, "step": np.int32(3)})
    assert list(digests) == ["a", "b/c", "step"]


@pytest.mark.devices
def test_nothing_but_sums_travels_between_devices(mesh):
    x = jax.device_put(np.ones((64, 64), np.float32), NamedSharding(mesh, P("a", "b")))
    text = jax.jit(lanes_of).lower(x).compile().as_text()
    moved = [line for line in text.splitlines() if "all-" in line and " = " in line]
    assert moved  # partial sums must meet
    for line in moved:
        shape = line.split(" = ")[1].split("[")[1].split("]")[0]
        assert np.prod([int(n) for n in shape.split(",") if n]) <= 32, line


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_single_changed_bit_changes_every_lane(dtype):
    host = random_array(dtype, (5, 7, 3), seed=1)
    before = np.asarray(lanes_of(jnp.asarray(host))[0])
    draw = np.random.default_rng(2)
    lanes = jax.jit(lanes_of)
    for _ in range(40):
        changed = host.copy()
        raw = changed.reshape(-1).view(np.uint8)
        bit = 0 if dtype == "bool" else int(draw.integers(8))
        raw[draw.integers(raw.size)] ^= 1 << bit
        assert (np.asarray(lanes(jnp.asarray(changed))[0]) != before).all()


def test_swapping_any_two_elements_is_seen():
    host = np.arange(40, dtype=np.float32).reshape(5, 8)
    seen = {of(jnp.asarray(host)).lanes}
    swapped = []
    for i in range(40):
        for j in range(i):
            other = host.copy().reshape(-1)
            other[[i, j]] = other[[j, i]]
            swapped.append(other.reshape(5, 8))
    lanes = np.asarray(jax.jit(jax.vmap(lanes_of))(np.stack(swapped))[0])
    for row in lanes:
        seen.add("".join(f"{n:08x}" for n in row))
    assert len(seen) == 1 + 40 * 39 // 2


def test_zeros_of_both_signs_and_nan_payloads_differ():
    zeros = of(jnp.zeros(3))
    assert zeros != of(-jnp.zeros(3))
    a, b = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert of(np.full(3, a)) != of(np.full(3, b))


def test_lanes_equal_the_formula_in_plain_numpy():
    """Stored digests must mean the same to every later version."""
    host = random_array("float32", (3, 5), seed=4)

    def mix(w):
        w = (w ^ (w >> np.uint32(16))) * np.uint32(0x7FEB352D)
        w = (w ^ (w >> np.uint32(15))) * np.uint32(0x846CA68B)
        return w ^ (w >> np.uint32(16))

    words = host.reshape(-1).view(np.uint32)
    mixed = mix(words ^ mix(np.arange(15, dtype=np.uint32)))
    seeds = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)
    lanes = [int(mix(mixed + np.uint32(s)).sum(dtype=np.uint32)) for s in seeds]
    assert of(host).lanes == "".join(f"{n:08x}" for n in lanes)


def test_a_digest_knows_dtype_and_shape_and_reads_itself_back():
    x = jnp.zeros((2, 3), jnp.bfloat16)
    one = of(x)
    assert one[:2] == ("bfloat16", (2, 3))
    assert str(one) == f"bfloat16 [2,3] {one.lanes}"
    for each in (one, of(jnp.float32(1)), of(jnp.zeros((0, 3)))):
        assert LeafDigest.parse(str(each)) == each
    assert one != of(x.reshape(3, 2))


def test_state_sha256_is_over_the_sorted_lines():
    digests = digest({"b": jnp.ones(2), "a": jnp.int32(1)})
    lines = "".join(f"{path} {digests[path]}\n" for path in ("a", "b"))
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert state_sha256(digests) == expected
    assert state_sha256(dict(reversed(digests.items()))) == expected
    assert digest({}) == {}
