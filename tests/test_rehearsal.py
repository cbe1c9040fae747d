"""The rehearsal of a run on a pod ends in the state of a run that nothing disturbs."""

import subprocess
import sys

import pytest
from states import ROOT


@pytest.mark.long
@pytest.mark.bucket
@pytest.mark.timeout(900)
def test_a_run_survives_a_preemption_a_lost_host_and_another_size():
    command = [sys.executable, "-m", "tools.rehearse"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    undisturbed, rehearsed = done.stdout.splitlines()[-2:]
    assert undisturbed.split()[-1] == rehearsed.split()[-1]
    assert "because host 1 was lost" in done.stdout
