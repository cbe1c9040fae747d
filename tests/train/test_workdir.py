"""A run directory has one owner at a time, and a format."""

import json
import os
import signal
import subprocess
import sys

import pytest
from states import ROOT

from jaxlm.checkpoints.store import FORMAT
from jaxlm.config import RunConfig
from jaxlm.train.workdir import claim_workdir, lock, read_config
from jaxlm.types import UserError

HOLD = """
import sys, time
from jaxlm.train.workdir import lock
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


def test_a_run_directory_of_another_format_is_refused_in_one_line(tmp_path):
    """Even if its config has fields that no longer exist."""
    claim_workdir(tmp_path, RunConfig(), {}, ["pretrain"], lambda to: None)
    assert read_config(tmp_path) == RunConfig()
    (record,) = json.loads((tmp_path / "provenance.json").read_text())
    assert record.pop("format") == FORMAT == 2
    (tmp_path / "provenance.json").write_text(json.dumps([record]))
    (tmp_path / "config.json").write_text('{"gone": 1}')
    line = f"{tmp_path} has format 1; this jaxlm reads 2: .*"
    with pytest.raises(UserError, match=line):
        read_config(tmp_path)
    with pytest.raises(UserError, match=line) as error:
        claim_workdir(tmp_path, RunConfig(), {}, ["pretrain"], lambda to: None)
    assert "\n" not in str(error.value)
