"""Checkpoints under faults: damage is seen and named, and nothing sound is lost."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.checkpoints import Checkpoints, lock
from jaxlm.digests import UnsoundError, digest, state_sha256
from jaxlm.tree import leaves
from jaxlm.types import UserError

ROOT = Path(__file__).resolve().parent.parent


class Moments(NamedTuple):
    count: object
    mu: object


class State(NamedTuple):
    step: object
    params: object
    opt_state: object
    carry: object


def state_of(step: int) -> State:
    """Another state for each step, with every kind of leaf that a run has."""
    draw = np.random.default_rng(step)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape), jnp.float32)

    params = {
        "embed": {"token": {"table": normal(96, 16)}},
        "layers": {"mlp": {"wi": {"kernel": normal(2, 16, 32), "bias": normal(2, 32)}}},
        "half": normal(24).astype(jnp.bfloat16),
    }
    mu = jax.tree.map(jnp.square, params)
    other = {
        "mask": jnp.asarray(draw.integers(0, 2, 8), bool),
        "bytes": jnp.asarray(draw.integers(0, 256, 8), jnp.uint8),
        "words": jnp.asarray(draw.integers(0, 2**32, 8), jnp.uint32),
    }
    moments = (Moments(jnp.int32(step), mu), (), None)
    return State(jnp.int32(step), params, moments, other)


ABSTRACT = jax.eval_shape(lambda: state_of(0))


def same(a, b) -> bool:
    return digest(a) == digest(b)


def write(directory: Path, *steps: int, keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=keep)
    checkpoints.open()
    for step in steps:
        checkpoints.save(step, state_of(step), {"at": step})
    checkpoints.close()
    return checkpoints


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """A run directory with steps 10 and 20; copy it before you harm it."""
    directory = tmp_path_factory.mktemp("run")
    write(directory, 10, 20)
    return directory


@pytest.fixture
def run(two_steps, tmp_path) -> Path:
    shutil.copytree(two_steps / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def leaf_file(run: Path, path: str, step: int = 20) -> Path:
    """The data file of a leaf."""
    chunks = (run / "checkpoints" / str(step) / "state" / path).rglob("*")
    return next(f for f in chunks if f.is_file() and f.name != "zarr.json")


# -- round trip ----------------------------------------------------------------


def test_a_state_comes_back_as_it_was(run):
    restored = Checkpoints(run).restore(ABSTRACT)
    assert restored.step == 20 and restored.meta == {"at": 20} and not restored.notes
    assert jax.tree.structure(restored.state) == jax.tree.structure(state_of(20))
    assert same(restored.state, state_of(20))
    assert restored.digests == digest(state_of(20))
    older = Checkpoints(run).restore(ABSTRACT, step=10)
    assert older.step == 10 and same(older.state, state_of(10))


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
    checkpoints.close()
    assert checkpoints.manifest(1).meta == meta


def test_nothing_saved_is_none_and_a_missing_step_is_an_error(run, tmp_path):
    assert Checkpoints(tmp_path / "new").restore(ABSTRACT) is None
    with pytest.raises(UserError, match=r"no step 15 in .*; there is 10, 20"):
        Checkpoints(run).restore(ABSTRACT, step=15)


def test_a_part_of_the_state_can_be_read_alone(run):
    restored = Checkpoints(run).restore(ABSTRACT.params, part="params/")
    assert same(restored.state, state_of(20).params)
    assert all(path.startswith("params/") for path in restored.digests)
    # Damage elsewhere does not matter then.
    leaf_file(run, "opt_state/0/mu/half").unlink()
    Checkpoints(run).restore(ABSTRACT.params, part="params/")


def test_a_leaf_is_a_zarr_array_that_others_can_read(run):
    import tensorstore

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
    checkpoints.close()
    for i, digests in expected.items():
        assert checkpoints.restore(abstract, step=i).digests == digests
    assert len({state_sha256(each) for each in expected.values()}) == 4


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
    checkpoints.close()
    placed = {"table": sharded(devices, P(None, "d")), "n": sharded(devices, P())}
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), host, placed
    )
    restored = checkpoints.restore(abstract)
    assert restored.digests == digests == digest(host)
    assert restored.state["table"].sharding == placed["table"]
    np.testing.assert_array_equal(restored.state["table"], host["table"])


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
        "  ≠ params/embed/token/table  expected float32[99, 16], "
        "the checkpoint has float32[96, 16]",
        "  + params/half  bfloat16[24] in the checkpoint, not expected",
        "  - params/nsp/kernel  expected float32[4], not in the checkpoint",
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


def test_another_format_version_is_refused(run, monkeypatch):
    from jaxlm import digests

    with monkeypatch.context() as patch:
        patch.setattr(digests, "FORMAT", 7)
        sealed = Checkpoints(run).manifest
        manifest = digests.Manifest(20, digest(state_of(20)), {}).seal()
        with pytest.raises(UserError, match="has format 1; this jaxlm reads 7"):
            sealed(20)
    change_manifest(run, lambda _: manifest)
    with pytest.raises(UserError, match="has format 7; this jaxlm reads 1"):
        Checkpoints(run).restore(ABSTRACT, fallback=True)


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


# -- damage --------------------------------------------------------------------


def test_every_flipped_bit_is_detected_and_its_leaf_named(run):
    """200 random single-bit flips in the files of leaves: R2 of the goals."""
    draw = random.Random(0)
    state = run / "checkpoints/20/state"
    files = sorted(f for f in state.rglob("*") if f.is_file() and f.parent != state)
    files = [f for f in files if "array_metadatas" not in str(f)]
    weights = [f.stat().st_size for f in files]
    checkpoints = Checkpoints(run)
    for trial in range(200):
        # Half by size, as real rot falls; half by file, for small leaves and zarr.json.
        even = [1] * len(files)
        path = draw.choices(files, weights if trial % 2 else even)[0]
        sound = path.read_bytes()
        bit = draw.randrange(8 * len(sound))
        harmed = bytearray(sound)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        relative = str(path.relative_to(state))
        leaf = (
            relative.removesuffix("/zarr.json").partition("/c/")[0].removesuffix("/c")
        )
        with pytest.raises(UnsoundError) as error:
            checkpoints.restore(ABSTRACT)
        assert f"leaf {leaf} " in str(error.value), (relative, bit)
        assert str(error.value).endswith("pretrain --fallback goes back to step 10")
        assert "\n" not in str(error.value)
        path.write_bytes(sound)
    assert checkpoints.restore(ABSTRACT).step == 20


def test_fallback_takes_the_step_before_says_so_and_puts_the_bad_one_aside(run):
    path = leaf_file(run, "params/embed/token/table")
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)
    restored = Checkpoints(run).restore(ABSTRACT, fallback=True)
    assert restored.step == 10 and same(restored.state, state_of(10))
    (note,) = restored.notes
    assert "20 is damaged: leaf params/embed/table" not in note
    assert "20 is damaged: leaf params/embed/token/table has digest" in note
    # The bad step is in nobody's way when the run comes past it again.
    assert Checkpoints(run).steps() == [10]
    assert (run / "checkpoints/20.unsound").is_dir()
    assert write(run, 20).restore(ABSTRACT).step == 20
    leaf_file(run, "step").write_bytes(b"")  # and a second time
    assert Checkpoints(run).restore(ABSTRACT, fallback=True).step == 10


def test_where_nothing_is_sound_nothing_is_moved(run):
    for step in (10, 20):
        leaf_file(run, "step", step).write_bytes(b"")
    with pytest.raises(
        UnsoundError, match="there is no older checkpoint to go back to"
    ):
        Checkpoints(run).restore(ABSTRACT, fallback=True)
    assert Checkpoints(run).steps() == [10, 20]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "harm", [truncate, Path.unlink, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("name", ["data", "zarr.json", "directory"])
def test_truncated_deleted_and_empty_files_name_their_leaf(run, harm, name):
    leaf = "opt_state/0/mu/layers/mlp/wi/bias"
    path = leaf_file(run, leaf)
    if name == "zarr.json":
        path = run / "checkpoints/20/state" / leaf / "zarr.json"
    if name == "directory":
        shutil.rmtree(run / "checkpoints/20/state" / leaf)
    else:
        harm(path)
    with pytest.raises(UnsoundError, match=f"leaf {leaf} cannot be read"):
        Checkpoints(run).restore(ABSTRACT)
    assert Checkpoints(run).restore(ABSTRACT, fallback=True).step == 10


def test_a_missing_manifest_falls_back_and_foreign_files_are_no_steps(run):
    checkpoints = run / "checkpoints"
    (checkpoints / "notes.txt").write_text("mine")
    (checkpoints / "30-old").mkdir()
    assert Checkpoints(run).restore(ABSTRACT).step == 20
    (checkpoints / "20/_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UnsoundError, match="_CHECKPOINT_METADATA cannot be read"):
        Checkpoints(run).restore(ABSTRACT)
    assert Checkpoints(run).restore(ABSTRACT, fallback=True).step == 10
    assert Checkpoints(run).open() == []
    assert (checkpoints / "notes.txt").exists() and (checkpoints / "30-old").exists()


def test_what_orbax_keeps_for_itself_may_rot(run):
    state = run / "checkpoints/20/state"
    for name in ("_METADATA", "_sharding", "array_metadatas/process_0"):
        (state / name).write_bytes(b"\x00rot")
    (run / "checkpoints/20/commit_success.txt").unlink()
    assert same(Checkpoints(run).restore(ABSTRACT).state, state_of(20))


# -- saving --------------------------------------------------------------------


def test_newest_and_multiples_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=4)
    checkpoints.open()
    for step in range(1, 11):
        checkpoints.save(step, {"x": jnp.full(3, step)}, {})
    checkpoints.close()
    assert checkpoints.steps() == [4, 8, 9, 10]
    with pytest.raises(UserError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)


def test_an_old_step_goes_only_when_the_newer_is_durable(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    seen = []
    checkpoints = write(tmp_path, 1, keep=1)
    real = ocp.save_async

    def slow(*args, **kwargs):
        response = real(*args, **kwargs)

        class Slow:
            def result(self):
                time.sleep(0.2)
                seen.append(checkpoints.steps())
                response.result()

        return Slow()

    monkeypatch.setattr(ocp, "save_async", slow)
    started = time.monotonic()
    checkpoints.save(2, state_of(2), {})
    checkpoints.check()
    assert time.monotonic() - started < 0.2  # neither waits
    checkpoints.save(3, state_of(3), {})  # waits for 2, so the two never overlap
    assert seen and 1 in seen[0]
    assert checkpoints.steps()[0] == 2
    checkpoints.close()
    assert checkpoints.steps() == [3]


def test_the_step_just_restored_is_not_written_again(run):
    checkpoints = Checkpoints(run)
    before = leaf_file(run, "step").stat().st_mtime_ns
    assert checkpoints.save(20, state_of(20), {"at": 20}) == digest(state_of(20))
    checkpoints.close()
    assert leaf_file(run, "step").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds another state of step 20"):
        checkpoints.save(20, state_of(21), {})


def test_orphans_are_removed_and_reported(run):
    for name in ("30.orbax-checkpoint-tmp", "5.deleted"):
        (run / "checkpoints" / name / "state").mkdir(parents=True)
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [10, 20]
    assert checkpoints.open() == ["30.orbax-checkpoint-tmp", "5.deleted"]
    assert checkpoints.open() == []
    assert checkpoints.steps() == [10, 20]


def script(code: str, *args, **kwargs) -> subprocess.CompletedProcess:
    """Run code in a fresh process on one CPU device, warnings as errors."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, **kwargs
    )


FULL_DISK = """
import resource, signal, sys, time
import jax.numpy as jnp
from jaxlm.checkpoints import Checkpoints
from jaxlm.types import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # like a full disk, then
state = {"small": jnp.ones(4), "a": jnp.ones((300, 1000)), "b": jnp.ones(300_000)}
checkpoints = Checkpoints(sys.argv[1])
checkpoints.open()
checkpoints.save(1, state, {})
checkpoints.wait()
hard = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
checkpoints.save(2, state, {})
deadline = time.monotonic() + 60
try:
    while time.monotonic() < deadline:
        checkpoints.check()
        time.sleep(0.02)
except UserError as error:
    print(error)
print(checkpoints.steps())
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
checkpoints.save(3, state, {})
checkpoints.close()
print(checkpoints.steps())
"""


def test_a_full_disk_is_one_line_and_costs_no_sound_step(tmp_path):
    done = script(FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    error, after, later = done.stdout.splitlines()
    assert error.startswith(f"saving step 2 to {tmp_path}/checkpoints/2 failed: ")
    assert error.endswith("; step 1 is the newest sound one")
    assert after == "[1]" and later == "[1, 3]"
    assert done.stderr == ""  # the error is where it can be caught, not on the screen
    assert not list(tmp_path.glob("checkpoints/*tmp*"))


READ_ONLY = """
import os, sys
from jaxlm.checkpoints import Checkpoints, lock
from jaxlm.types import UserError

if os.geteuid() == 0:
    os.setuid(65534)
for attempt in (Checkpoints(sys.argv[1]).open, lock(sys.argv[1]).__enter__):
    try:
        attempt()
    except UserError as error:
        print(error)
"""


def test_a_directory_that_cannot_be_written_is_named_before_anything_runs(tmp_path):
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    for path in (directory, directory / "checkpoints"):
        path.chmod(0o555)
    for path in [tmp_path, *tmp_path.parents]:  # so that it is this one that refuses
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    done = script(READ_ONLY, directory)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"cannot write checkpoints to {directory}/checkpoints: ")
    assert second.startswith(f"cannot write to {directory}: PermissionError: ")


SAVES = """
import os, sys, time
import jax, numpy as np
from jaxlm.checkpoints import Checkpoints

def saves(directory):
    checkpoints = Checkpoints(directory, keep=1)
    checkpoints.open()
    for step in range(1, 10_000):
        state = {f"k{i}": np.full((100, 1000), step + i, np.float32) for i in range(4)}
        checkpoints.save(step, jax.device_put(state), {})
        open(os.path.join(directory, "begun"), "w").close()

for directory, delay in zip(sys.argv[1::2], map(float, sys.argv[2::2])):
    os.mkdir(directory)
    child = os.fork()  # before any backend exists: each child makes its own
    if not child:
        saves(directory)
    while not os.path.exists(os.path.join(directory, "begun")):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def test_kill_9_while_saving_leaves_a_sound_newest_step(tmp_path):
    """Eight kills, at other times each, into a storm of saves and deletions."""
    draw = random.Random(1)
    runs = [tmp_path / f"run{i}" for i in range(8)]
    arguments = [part for run in runs for part in (run, draw.uniform(0.0, 1.0))]
    done = script(SAVES, *arguments)
    assert done.returncode == 0, done.stderr
    shape = {f"k{i}": jax.ShapeDtypeStruct((100, 1000), "float32") for i in range(4)}
    orphans, found = 0, set()
    for run in runs:
        checkpoints = Checkpoints(run, keep=1)
        orphans += len(checkpoints.open())
        restored = checkpoints.restore(shape)
        if restored is None:
            continue  # killed before the very first save was durable
        found.add(restored.step)
        for i in range(4):
            assert (np.asarray(restored.state[f"k{i}"]) == restored.step + i).all()
        # The next run goes on from there.
        checkpoints.save(restored.step + 1, restored.state, {})
        checkpoints.close()
        assert checkpoints.steps() == [restored.step + 1]
    assert len(found) > 2 and orphans > 0  # the kills did fall into the midst of it


TWO_HOSTS = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxlm import checkpoints as module
from jaxlm.types import UserError

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
host = {"table": np.arange(64, dtype=np.float32).reshape(8, 8), "step": np.int32(4)}
parts = {"table": NamedSharding(mesh, P("d")), "step": NamedSharding(mesh, P())}
state = {
    name: jax.make_array_from_callback(x.shape, parts[name], lambda i, x=x: x[i])
    for name, x in host.items()
}
abstract = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parts[name])
    for name, x in host.items()
}
checkpoints = module.Checkpoints(sys.argv[3], keep=2)
checkpoints.open()
multihost_utils.sync_global_devices("open")
for step in (1, 2, 3):
    digests = checkpoints.save(step, state, {"at": step})
checkpoints.close()
multihost_utils.sync_global_devices("saved")
restored = checkpoints.restore(abstract)
assert restored.digests == digests == module.digest(host) and restored.step == 3
real = module._read
if jax.process_index() == 1:
    def module_read(path, leaf):
        if path.parts[-3] == "3":
            raise OSError("stale file handle")
        return real(path, leaf)
    module._read = module_read
try:
    checkpoints.restore(abstract)
except UserError as error:
    print(error)
restored = checkpoints.restore(abstract, fallback=True)
print(restored.step, checkpoints.steps())
multihost_utils.sync_global_devices("end")
"""


def test_two_hosts_write_one_checkpoint_and_agree_on_damage(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_HOSTS, address, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [host.communicate(timeout=120) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    reasons = (
        "another host cannot read it",
        "leaf step cannot be read: OSError: stale",
    )
    for host, (out, err), reason in zip(hosts, said, reasons, strict=True):
        assert host.returncode == 0, err
        lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert f"checkpoints/3 is damaged: {reason}" in lines[0]
        assert lines[1].startswith("2 ")
    assert sorted(each.name for each in (tmp_path / "checkpoints").iterdir()) == [
        "2",
        "3.unsound",
    ]


# -- the lock ------------------------------------------------------------------

HOLD = """
import sys, time
from jaxlm.checkpoints import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_directory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
                lock(tmp_path).__enter__()
        finally:
            holder.send_signal(signal.SIGKILL)
    mine = f"in use by process {os.getpid()} on "
    with lock(tmp_path), pytest.raises(UserError, match=mine):
        lock(tmp_path).__enter__()  # the kernel let go with the process
    with lock(tmp_path):
        pass
