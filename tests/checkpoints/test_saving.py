"""Saves under faults: full disks, kills, orphans; nothing sound is lost."""

import logging
import os
import random
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import leaf_file, script, state_of, write

from jaxlm.checkpoints import Checkpoints
from jaxlm.checkpoints.digests import digest
from jaxlm.types import UserError


def test_the_newest_and_those_kept_for_good_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keeps=lambda step: step % 4 == 0)
    checkpoints.open()
    for step in range(1, 11):
        checkpoints.save(step, {"x": jnp.full(3, step)}, {})
    checkpoints.wait()
    assert checkpoints.steps() == [4, 8, 9, 10]


def test_a_run_may_be_named_by_a_path_that_goes_up(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    checkpoints = Checkpoints("../run")
    checkpoints.open()
    checkpoints.save(1, {"x": jnp.arange(3)}, {})
    checkpoints.wait()
    restored = Checkpoints("../run").stored()
    assert restored and np.asarray(restored.state["x"]).tolist() == [0, 1, 2]
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_an_old_step_goes_only_when_the_newer_is_durable(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    seen, release = [], threading.Event()
    checkpoints = write(tmp_path, 1, keep=1)
    real = ocp.save_async

    def slow(*args, **kwargs):
        response = real(*args, **kwargs)

        class Slow:
            def result(self):
                release.wait(60)
                seen.append(checkpoints.steps())
                response.result()

        return Slow()

    monkeypatch.setattr(ocp, "save_async", slow)
    checkpoints.save(2, state_of(2), {})
    checkpoints.check()
    assert not seen  # neither has waited
    release.set()
    checkpoints.save(3, state_of(3), {})  # waits for 2, so the two never overlap
    assert seen and 1 in seen[0]
    assert checkpoints.steps()[0] == 2
    checkpoints.wait()
    assert checkpoints.steps() == [3]


def test_the_step_just_restored_is_not_written_again(run):
    checkpoints = Checkpoints(run)
    before = leaf_file(run, "step").stat().st_mtime_ns
    assert checkpoints.save(20, state_of(20), {"at": 20}) == digest(state_of(20))
    checkpoints.wait()
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


FULL_DISK = """
import resource, signal, sys, time
import jax.numpy as jnp
from jaxlm.checkpoints import Checkpoints
from jaxlm.types import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # like a full disk, then
sys.dont_write_bytecode = True  # Python would keep modules that are cut off
state = {"small": jnp.ones(4), "a": jnp.ones((300, 1000)), "b": jnp.ones(300_000)}
before = sys.unraisablehook
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
checkpoints.wait()
print(checkpoints.steps())
print(sys.unraisablehook is before)
"""


def test_a_full_disk_is_one_line_and_costs_no_sound_step(tmp_path):
    done = script(FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    error, after, later, hook = done.stdout.splitlines()
    assert error.startswith(f"saving step 2 to {tmp_path}/checkpoints/2 failed: ")
    assert error.endswith("; step 1 is the newest sound one")
    assert after == "[1]" and later == "[1, 3]"
    assert hook == "True"  # the process's own hook is back
    assert done.stderr == ""  # the error is where it can be caught, not on the screen
    assert not list(tmp_path.glob("checkpoints/*tmp*"))


@pytest.mark.parametrize("package, shown", [("orbax", 0), ("grain", 1)])
def test_a_second_error_of_a_save_is_not_on_the_screen(package, shown, caplog):
    """asyncio logs, with a traceback, what Orbax did not wait for after the first."""
    found: dict = {}
    source = "def write(): raise OSError(28, 'No space left on device')"
    exec(compile(source, f"site-packages/{package}/path.py", "exec"), found)
    try:
        found["write"]()
    except OSError as error:
        logger = logging.getLogger("asyncio")
        logger.error("Future exception was never retrieved", exc_info=error)
    assert len(caplog.records) == shown


READ_ONLY = """
import os, sys
from jaxlm.checkpoints import Checkpoints
from jaxlm.train.workdir import lock
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
    assert second.startswith(f"cannot write to {directory}: Permission denied")


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
        checkpoints.wait()
        assert checkpoints.steps() == [restored.step + 1]
    assert len(found) > 2 and orphans > 0  # the kills did fall into the midst of it
