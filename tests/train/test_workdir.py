"""A run directory has one owner at a time."""

import os
import signal
import subprocess
import sys

import pytest
from states import ROOT

from jaxlm.train.workdir import lock
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
