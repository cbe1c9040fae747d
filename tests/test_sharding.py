"""Host rows on meshes: the same global batch on any number of devices, in any cut."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from reference.numbered import lifelike, numbered
from reference.observed import road
from reference.sources import batches

from jaxlm.config import MaskedData, MeshConfig
from jaxlm.sharding import batch_sharding, local_rows, make_mesh, to_devices

pytestmark = pytest.mark.devices
BATCH = 16
MESHES = [
    MeshConfig(data=1),
    MeshConfig(data=2),
    MeshConfig(data=4),
    MeshConfig(data=8),
    MeshConfig(data=2, tensor=2),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(replica=2, data=2, fsdp=2),
    MeshConfig(data=1, tensor=8),
]


def name(mesh: MeshConfig) -> str:
    return f"{mesh.replica}x{mesh.data}x{mesh.fsdp}x{mesh.tensor}"


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    corpus = numbered(lifelike(0, 60, (1, 3, 9, 40)), directory, words=[1, 2, 3] * 9000)
    return road(corpus, length=64, data=MaskedData(whole_words=True))


@pytest.fixture(scope="module")
def whole(drawn):
    """Rows and batch of step 3, on one device."""
    rows = drawn.source.read(3 * BATCH + np.arange(BATCH))
    return rows, jax.device_get(drawn.transform(rows))


@pytest.mark.parametrize("config", MESHES, ids=name)
def test_each_device_holds_its_rows_and_no_others(config, drawn, whole):
    mesh = make_mesh(config)
    sharding = batch_sharding(mesh)
    local = local_rows(sharding, BATCH)
    np.testing.assert_array_equal(local, np.arange(BATCH))
    placed = to_devices(whole[0], local, sharding, BATCH)
    equal(placed, whole[0])
    parts = config.replica * config.data * config.fsdp
    for array in jax.tree.leaves(placed):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)
        for shard in array.addressable_shards:
            assert shard.data.shape[0] == BATCH // parts
            np.testing.assert_array_equal(shard.data, array[shard.index])


@pytest.mark.parametrize("config", MESHES, ids=name)
def test_a_batch_is_the_same_on_any_mesh_and_by_any_threads(config, drawn, whole):
    mesh = make_mesh(config)
    sharding = batch_sharding(mesh)
    local = local_rows(sharding, BATCH)
    transform = jax.jit(drawn.transform)
    for threads in (1, 4):
        feed = batches(drawn.source, BATCH, local, start=3, stop=4, threads=threads)
        with jax.set_mesh(mesh):
            batch = transform(to_devices(next(feed), local, sharding, BATCH))
        equal(jax.device_get(batch), whole[1])


def test_single_tokens_are_the_same_on_any_mesh_too(drawn, whole):
    single = road(drawn.corpus, length=64)
    placed = jax.device_put(whole[0], batch_sharding(make_mesh(MeshConfig(data=8))))
    equal(
        jax.device_get(single.transform(placed)),
        jax.device_get(single.transform(whole[0])),
    )


@pytest.mark.parametrize("cut", [2, 16])
def test_a_batch_is_the_same_in_any_cut(cut, drawn, whole):
    size = BATCH // cut
    for part in range(cut):
        # Both ways to cut: rows part, part + cut, …, and one stretch after another.
        for these in (
            slice(part, None, cut),
            slice(part * size, (part + 1) * size),
        ):
            rows, batch = jax.tree.map(lambda x, s=these: x[s], whole)
            equal(jax.device_get(drawn.transform(rows)), batch)


class SecondHost(jax.sharding.Sharding):
    """What the host of the latter two of four devices sees."""

    def __init__(self):
        self.whole = batch_sharding(make_mesh(MeshConfig(data=4)))

    def addressable_devices_indices_map(self, global_shape):
        parts = self.whole.devices_indices_map(global_shape)
        return dict(list(parts.items())[2:])


def test_a_host_reads_only_the_rows_of_its_devices():
    np.testing.assert_array_equal(local_rows(SecondHost(), BATCH), np.arange(8, 16))


def test_each_device_draws_its_rows_without_asking_another(drawn, whole):
    sharding = batch_sharding(make_mesh(MeshConfig(data=8)))
    placed = jax.device_put(whole[0], sharding)
    compiled = jax.jit(drawn.transform).lower(placed).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    outs = jax.tree.leaves(compiled.output_shardings)
    for field, out in zip(jax.tree.leaves(whole[1]), outs, strict=True):
        assert out.is_equivalent_to(sharding, field.ndim)
