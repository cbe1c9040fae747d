"""Run `jaxlm VERB …` in processes of their own and judge how they end.

Most commands are forked from a server that has imported jax and jaxlm, which saves two
seconds each. Kills and signals have a fresh interpreter, as a user's command has.
"""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 120.0  # seconds; a command that takes longer hangs
_PRELOAD = (
    "jax",
    "jax.numpy",
    "optax",
    "orbax.checkpoint",
    "tensorstore",
    "h5py",
    "jaxlm.cli.pretrain",
    "jaxlm.cli.use",
    "jaxlm.cli.weights",
    "jaxlm.train.loop",
    "jaxlm.tasks.finetune",
    "jaxlm.convert",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_PRELOAD))


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: a signal), and what it printed."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str

    @property
    def state(self) -> str:
        """The digest of the state that a run ended in, or ""."""
        found = re.search(r"^state sha256 (\w+)", self.out, re.MULTILINE)
        return found[1] if found else ""

    @property
    def refusal(self) -> str:
        """The line of a refusal, or ""."""
        return next((x for x in self.err.splitlines() if x.startswith("jaxlm: ")), "")


def run(*argv: str) -> Ended:
    """Run one command to its end, or for DEADLINE seconds."""
    with tempfile.TemporaryDirectory() as directory:
        files = [os.path.join(directory, name) for name in ("out", "err")]
        process = _CONTEXT.Process(target=_forked, args=(argv, *files))
        process.start()
        process.join(DEADLINE)
        if process.exitcode is None:
            process.kill()
            process.join()
            return Ended(argv, 0, "", "hung")
        out, err = (Path(file).read_text(errors="replace") for file in files)
        return Ended(argv, process.exitcode, out, err)


def _forked(argv: tuple[str, ...], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    from jaxlm.cli import main

    sys.exit(main(list(argv)))


def start(*argv: str) -> subprocess.Popen:
    """Start one command in a fresh interpreter and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxlm", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def signalled(how: signal.Signals, after: float, *argv: str) -> Ended:
    """Run a command and send it a signal after some seconds, if it still runs.

    SIGKILL goes to the whole process group, as when a machine is lost; other signals go
    to the first process, as a cluster sends them.
    """
    process = start(*argv)
    try:
        out, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Ended(argv, 0, "", "hung")
    return Ended(argv, process.returncode, out, err)


# Verdicts, the last four of which are faults of jaxlm.
SAME, SAID, SILENT, TRACEBACK, UNCLEAR, HUNG = (
    "same",
    "said",
    "silent",
    "traceback",
    "unclear",
    "hung",
)
FAULTS = (SILENT, TRACEBACK, UNCLEAR, HUNG)


def judge(ended: Ended, same: Callable[[Ended], bool]) -> str:
    """The verdict on a command that met harm.

    Args:
        same: whether a command that ended with 0 has the result of an unharmed one.
    """
    if ended.err == "hung":
        return HUNG
    crashed = ended.status < 0 and -ended.status != signal.SIGKILL
    if "Traceback (most recent call last)" in ended.err or crashed:
        return TRACEBACK
    if ended.status == 0:
        return SAME if same(ended) else SILENT
    return SAID if ended.refusal and ended.status in (2, 3, 75) else UNCLEAR
