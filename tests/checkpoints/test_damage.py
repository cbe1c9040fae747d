"""Damage is seen, its leaf is named, and the sound step before is found."""

import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from states import ABSTRACT, leaf_file, same, state_of, write
from tiny import tiny

from jaxlm.checkpoints import (
    Checkpoints,
    Restored,
    RunFiles,
    UnsoundError,
    restore_params,
)
from jaxlm.types import UserError


@pytest.mark.parametrize("wanted", ["restore", "stored"])
def test_every_flipped_bit_is_detected_and_its_leaf_named(run, wanted):
    """200 random single-bit flips in the files of leaves: R2 of the goals."""

    def read():
        if wanted == "restore":
            return checkpoints.restore(ABSTRACT)
        state = jax.tree.map(np.asarray, checkpoints.stored().state)
        return Restored(20, state, {}, {}, [])

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
            read()
        assert f"leaf {leaf} " in str(error.value), (relative, bit)
        back = "pretrain --fallback goes back to step 10"
        assert wanted == "stored" or str(error.value).endswith(back)
        assert "\n" not in str(error.value)
        path.write_bytes(sound)
    assert read().step == 20 and same(read().state, state_of(20))


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


def test_best_parameters_that_are_gone_are_missed(run):
    """The newest ones would be another model."""
    checkpoints = Checkpoints(run)
    checkpoints.save(30, state_of(30), {"best": 20})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"best/checkpoints .* step 20 was the best"):
        restore_params(run, ABSTRACT.params)
    best = Checkpoints(run / "best")
    best.open()
    best.save(20, {"params": state_of(20).params}, {})
    best.wait()
    assert restore_params(run, ABSTRACT.params).step == 20


def test_a_checkpoint_of_an_older_version_fits_any_run(run):
    """It does not know the config and the digests that it belongs to."""
    checkpoints = Checkpoints(run, run=RunFiles(tiny(), {"corpus_sha256": "a"}))
    assert checkpoints.restore(ABSTRACT).step == 20
    checkpoints.save(30, state_of(30), {})
    checkpoints.wait()
    assert checkpoints.restore(ABSTRACT).step == 30
    other = Checkpoints(run, run=RunFiles(tiny(), {"corpus_sha256": "b"}))
    with pytest.raises(UserError, match="another run: corpus_sha256 was a…, is b…"):
        other.restore(ABSTRACT, fallback=True)
    assert other.steps() == [20, 30]
