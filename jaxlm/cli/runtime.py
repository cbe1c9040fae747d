"""What a verb does before JAX runs: signals, memory, other hosts, compiled code."""

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from jaxlm.files import cache_of, host_log, remove_temporary

_LOST = r"Gloo|NCCL|Connection (reset|closed)|Socket closed|UNAVAILABLE"

_witnesses: list[subprocess.Popen] = []
_stderr = 2  # what Python writes to; with several hosts, native code has another


def say(text: str) -> None:
    """Print a line on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def end_on_signals(status: int, *, done: bool = False) -> None:
    """Make SIGTERM and Ctrl-C end the process with `status` and a message.

    A second signal ends it at once. `done`: the work is finished, so no message. The
    handlers do not raise, because callbacks of libraries swallow exceptions and some
    modules break if their import is interrupted. Training has its own handlers
    (`train/loop.py`).
    """

    def end(number: int, frame: Any) -> None:
        for each in caught:
            signal.signal(each, lambda number, _: os._exit(128 + number))
        if not done:
            shown = b"\x1b[?25h\n" * sys.stderr.isatty()  # a bar hides the cursor
            os.write(
                _stderr, shown + b"jaxlm: interrupted; run the same command to resume\n"
            )
        remove_temporary()
        for worker in multiprocessing.active_children():
            worker.kill()  # one that starts would complain of what is gone
        if processes := sys.modules.get("multiprocessing.util"):
            processes._run_finalizers(0)  # else its tracker warns of leaked semaphores
        os._exit(status)

    caught = [signal.SIGINT, signal.SIGTERM]
    caught = [each for each in caught if signal.getsignal(each) != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, end)
        if done:  # Python resets handlers long before it ends, but ignores what we do
            atexit.register(signal.signal, number, signal.SIG_IGN)


def start_jax(workdir: str = "", hosts: str = "") -> None:
    """Join the other hosts, as `hosts.join` says, and keep compiled programs on disk.

    With several hosts, what native code prints goes to a file in the workdir.
    """
    from jaxlm.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from jaxlm.hosts import join

    if not jax.distributed.is_initialized():
        join(
            hosts, lambda host: _keep_native_output(workdir, host) if workdir else None
        )
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_of("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _keep_native_output(workdir: str, host: int) -> None:
    """Send the standard error of native code to WORKDIR/host-N.log; see `witness.py`.

    Python's own standard error stays as it was. Without a workdir, nothing changes.
    """
    if not workdir:
        return
    from jaxlm.cli import witness

    log = host_log(workdir, host)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, witness.__file__, str(log)]
    process = subprocess.Popen(
        [*command, str(host)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin
    global _stderr
    _stderr = os.dup(2)
    sys.stderr = open(_stderr, "w", 1, errors="backslashreplace")  # noqa: SIM115
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    _witnesses.append(process)  # collected, it would warn that it still runs


@contextlib.contextmanager
def native_output() -> Iterator[BinaryIO]:
    """Send the standard error of native code, but not Python's, to a file."""
    global _stderr
    before, shown = _stderr, sys.stderr
    with tempfile.TemporaryFile() as file:
        _stderr = os.dup(2)
        if shown is sys.__stderr__:
            sys.stderr = open(_stderr, "w", 1, closefd=False)  # noqa: SIM115
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(_stderr, 2)
            os.close(_stderr)
            _stderr, sys.stderr = before, shown


def wait_if_a_host_is_lost(error: Exception) -> None:
    """After a broken connection, wait until JAX ends the process and names the host."""
    if _witnesses and re.search(_LOST, str(error)):
        from jaxlm.hosts import HEARTBEAT

        time.sleep(HEARTBEAT + 20)
