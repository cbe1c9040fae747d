"""Jobs of several hosts: processes of one CPU device each, with equal commands."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from states import ROOT
from xla_flags import FAST

# Runs one command after another in one process, which saves half of their time.
COMMANDS = """
import sys
from jaxlm import hosts
from jaxlm.cli import main
hosts.HEARTBEAT = 10
for command in " ".join(sys.argv[1:]).split(" AND "):
    status = main(command.split())
sys.exit(status)
"""


def hosts(
    *commands: list[str], count: int = 2, first: str = ""
) -> list[subprocess.Popen]:
    """Processes that run the same commands, after the Python code `first`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": FAST,
        "PYTHONPATH": str(ROOT),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    words = " AND ".join(" ".join(command) for command in commands).split()
    return [
        subprocess.Popen(
            [sys.executable, "-c", first + COMMANDS, *words],
            env={**environment, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def wait_for(path: Path, processes: list[subprocess.Popen]) -> None:
    """Wait until the processes have made a file."""
    deadline = time.monotonic() + 400
    while not path.exists():
        ended = any(process.poll() is not None for process in processes)
        if ended or time.monotonic() > deadline:
            for process in processes:
                process.kill()
            pytest.fail(f"no {path}: {finish(processes)}")
        time.sleep(0.05)


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(status, output, errors) of each."""
    try:
        said = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *s) for p, s in zip(processes, said, strict=True)]
