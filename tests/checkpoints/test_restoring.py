"""What comes back is what was saved, on any mesh, or does not fit and says so."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from states import ABSTRACT, leaf_file, same, state_of, write

from jaxlm.checkpoints import Checkpoints, StoredLeaf, UnsoundError, manifest
from jaxlm.checkpoints.digests import digest, state_sha256
from jaxlm.train.state import Pretrained, merge
from jaxlm.tree import leaves
from jaxlm.types import UserError


def read_bytes() -> int:
    """That TensorStore has read from files, other than by mapping them."""
    name = "/tensorstore/kvstore/file/bytes_read"
    found = tensorstore.experimental_collect_matching_metrics(name)
    return sum(value["value"] for each in found for value in each["values"])


def test_a_state_comes_back_as_it_was(run):
    restored = Checkpoints(run).restore(ABSTRACT)
    assert restored.step == 20 and restored.meta == {"at": 20} and not restored.notes
    assert jax.tree.structure(restored.state) == jax.tree.structure(state_of(20))
    assert same(restored.state, state_of(20))
    assert restored.digests == digest(state_of(20))


def test_meta_is_any_json(tmp_path):
    meta = {
        "sums": {"a": [0.1, 3e-320]},
        "text": "学习 ü",
        "none": None,
        "n": [1, True],
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.open()
    checkpoints.save(1, {"x": jnp.ones(2)}, meta)
    checkpoints.wait()
    assert checkpoints.stored().meta == meta


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(ABSTRACT) is None
    assert Checkpoints(tmp_path / "new").stored() is None


def test_a_part_of_the_state_can_be_read_alone(run):
    restored = Checkpoints(run).restore(ABSTRACT.params, part="params/")
    assert same(restored.state, state_of(20).params)
    assert all(path.startswith("params/") for path in restored.digests)
    # Damage elsewhere does not matter then.
    leaf_file(run, "opt_state/0/mu/half").unlink()
    Checkpoints(run).restore(ABSTRACT.params, part="params/")


def test_a_stored_leaf_is_an_array_when_it_is_wanted(run):
    stored = dict(leaves(Checkpoints(run).stored().state))
    for path, leaf in leaves(state_of(20)):
        assert stored[path].shape == leaf.shape and stored[path].dtype == leaf.dtype
        np.testing.assert_array_equal(np.asarray(stored[path]), leaf)


def test_a_leaf_is_a_zarr_array_that_others_can_read(run):
    path = run / "checkpoints/20/state/params/layers/mlp/wi/kernel"
    kvstore = {"driver": "file", "path": f"{path}/"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(
        array.read().result(), state_of(20).params["layers"]["mlp"]["wi"]["kernel"]
    )


def test_orbax_itself_reads_it(run):
    from orbax.checkpoint import v1 as ocp

    flat = {f"params/{path}": leaf for path, leaf in leaves(state_of(20).params)}
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)
        for path, leaf in flat.items()
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        restored = ocp.load(
            run / "checkpoints/20", abstract, checkpointable_name="state"
        )
    assert same(restored, flat)


def test_a_state_can_be_donated_as_soon_as_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    checkpoints.open()
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 3 + 1, s), donate_argnums=0)
    state = {"a": jnp.ones((512, 512)), "b": {"c": jnp.arange(100_000)}}
    abstract = jax.eval_shape(lambda: state)
    expected = {}
    for i in range(4):
        expected[i] = checkpoints.save(i, state, {})
        state = step(state)  # overwrites the very buffers
    checkpoints.wait()
    for i in reversed(range(4)):
        assert checkpoints.restore(abstract).digests == expected[i]
        shutil.rmtree(checkpoints.directory / str(i))
    assert len({state_sha256(each) for each in expected.values()}) == 4


@pytest.mark.devices
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_another_mesh_restores_the_same_bits(tmp_path, devices):
    def sharded(count, spec):
        mesh = Mesh(
            np.array(jax.devices()[:count]), ("d",), axis_types=(AxisType.Auto,)
        )
        return NamedSharding(mesh, spec)

    host = {
        "table": np.random.default_rng(0).standard_normal((64, 16)),
        "n": np.ones(8),
    }
    host = jax.tree.map(np.float32, host)
    saved = jax.device_put(host, sharded(4, P("d")))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.open()
    digests = checkpoints.save(1, saved, {})
    checkpoints.wait()
    placed = {"table": sharded(devices, P(None, "d")), "n": sharded(devices, P())}
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), host, placed
    )
    restored = checkpoints.restore(abstract)
    assert restored.digests == digests == digest(host)
    assert restored.state["table"].sharding == placed["table"]
    np.testing.assert_array_equal(restored.state["table"], host["table"])


@pytest.mark.devices
@pytest.mark.parametrize("spec", [P("d"), P(None, "d")], ids=["rows", "columns"])
def test_parts_of_a_leaf_are_read_without_the_rest(tmp_path, spec):
    """One device saved it in one piece; each part would otherwise read it whole."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.open()
    saved = checkpoints.save(1, {"x": jnp.ones((1024, 1024))}, {})
    checkpoints.wait()
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))
    leaf = dict(leaves(checkpoints.stored().state))["x"]
    before = read_bytes()
    placed = leaf.place(NamedSharding(mesh, spec))
    assert read_bytes() - before <= 1.1 * placed.nbytes
    assert digest({"x": placed}) == saved


def test_init_from_a_run_reads_no_leaf_whole(run, monkeypatch):
    """Of its parameters; those that change shape are the exception."""
    stored = Checkpoints(run).stored(part="params/").state
    monkeypatch.setattr(StoredLeaf, "__array__", None)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: x.update(sharding=one), ABSTRACT.params)
    found, notes = merge(Pretrained("run", stored), abstract, state_of(0).params)
    assert same(found, state_of(20).params) and notes == ["parameters of run"]


# -- what a checkpoint must fit -------------------------------------------------


def test_a_state_that_does_not_fit_is_shown_from_both_sides(run):
    params = {
        **ABSTRACT.params,
        "nsp": {"kernel": jax.ShapeDtypeStruct((4,), "float32")},
    }
    del params["half"]
    params["embed"] = {"token": {"table": jax.ShapeDtypeStruct((99, 16), "float32")}}
    with pytest.raises(UserError) as error:
        Checkpoints(run).restore(ABSTRACT._replace(params=params))
    lines = str(error.value).splitlines()
    assert lines[0].endswith("20 does not fit this run:")
    assert lines[1:] == [
        "  ≠ params/embed/token/table  expected float32[99, 16], found float32[96, 16]",
        "  + params/half  found bfloat16[24], not expected",
        "  - params/nsp/kernel  expected float32[4], not found",
    ]
    # That is no damage: falling back would lose sound steps for nothing.
    with pytest.raises(UserError, match="does not fit"):
        Checkpoints(run).restore(ABSTRACT._replace(params=params), fallback=True)
    assert Checkpoints(run).steps() == [10, 20]


def change_manifest(run: Path, change) -> None:
    path = run / "checkpoints/20/_CHECKPOINT_METADATA"
    data = json.loads(path.read_text())
    data["custom_metadata"] = change(data["custom_metadata"])
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("format", [1, manifest.FORMAT + 1])
def test_another_format_version_is_refused(run, monkeypatch, format):
    """Format 1 was written before fields of configurations went."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "FORMAT", format)
        write(run, 30)
    with pytest.raises(UserError) as error:
        Checkpoints(run).restore(ABSTRACT, fallback=True)
    said = f"has format {format}; this jaxlm reads {manifest.FORMAT}"
    assert said in str(error.value) and "\n" not in str(error.value)
    assert Checkpoints(run).steps() == [10, 20, 30]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: {**m, "meta": {"at": 21}}, "was changed after it was written"),
        (lambda m: None, "is not the manifest of a jaxlm checkpoint"),
        (lambda m: {}, "is not the manifest of a jaxlm checkpoint"),
    ],
)
def test_a_changed_manifest_is_no_checkpoint(run, change, message):
    change_manifest(run, change)
    with pytest.raises(UnsoundError, match=message):
        Checkpoints(run).restore(ABSTRACT)
    assert Checkpoints(run).restore(ABSTRACT, fallback=True).step == 10


def test_a_step_under_another_number_is_seen(run):
    (run / "checkpoints/20").rename(run / "checkpoints/30")
    with pytest.raises(UnsoundError, match="is of step 20, not 30"):
        Checkpoints(run).restore(ABSTRACT)


def test_a_table_that_was_saved_without_its_padding_gets_zeros(run):
    table = jax.ShapeDtypeStruct((128, 16), "float32")
    params = {**ABSTRACT.params, "embed": {"token": {"table": table}}}
    restored = Checkpoints(run).restore(ABSTRACT._replace(params=params))
    found = restored.state.params["embed"]["token"]["table"]
    was = state_of(20).params["embed"]["token"]["table"]
    np.testing.assert_array_equal(found[:96], was)
    assert found.shape == (128, 16) and not found[96:].any()
    assert restored.digests == digest(state_of(20))
