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

INTERRUPTED = 75  # exit status after a signal: the same command resumes

_LOST = r"Gloo|NCCL|Connection (reset|closed)|Socket closed|UNAVAILABLE"

_witnesses: list[subprocess.Popen] = []
_stderr = 2  # the terminal's; with several hosts, native code has another
_is_command = False  # a verb runs, not a function of the library
_others_wait = False  # for this host, the first of several


def say(*lines: str) -> None:
    """Print lines on standard error: standard output is for results."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


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


def start_jax(
    workdir: str | None = None, hosts: str = "", *, together: bool = False
) -> None:
    """Join the other hosts, as `hosts.join` says, and keep compiled programs on disk.

    All hosts go on if `hosts` is given, as by verbs that train, or if they work
    `together`. For other verbs only the first does, and the others end with its status.
    With a workdir, hosts have a log; see `_keep_log`.
    """
    from jaxlm.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from jaxlm.hosts import join

    if not jax.distributed.is_initialized():
        join(hosts, lambda host: None if workdir is None else _keep_log(workdir, host))
        if _is_command and jax.distributed.is_initialized() and not hosts:
            end_on_signals(INTERRUPTED)  # again: JAX catches SIGTERM for training
            if not together:
                _leave_to_first()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_of("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _leave_to_first() -> None:
    """Return on the first host; end the others, once it has ended, with its status."""
    import jax

    from jaxlm.hosts import wait_for_first

    global _others_wait
    host = jax.process_index()
    _others_wait = not host
    if host:
        say(f"jaxlm: host {host} has nothing to do: host 0 does the work of this verb")
        raise SystemExit(wait_for_first())


@contextlib.contextmanager
def telling_others() -> Iterator[list[int]]:
    """While a verb runs, other hosts may wait for this one: they end with the status
    that is put in the list, or with 1."""
    global _is_command
    _is_command, statuses = True, [1]
    try:
        yield statuses
    finally:
        if _others_wait:
            from jaxlm.hosts import tell_status

            tell_status(statuses[-1])


def _keep_log(workdir: str, host: int) -> None:
    """Send what native code says of errors to `host_log`; see `witness.py`. On other
    hosts than the first, all that is printed goes there; see `show_errors`."""
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
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    _witnesses.append(process)  # collected, it would warn that it still runs
    if host:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
    else:
        show_errors()


def show_errors() -> None:
    """Send Python's standard error to the terminal, not to the log of this host."""
    if _witnesses:
        options: Any = {"errors": "backslashreplace", "closefd": False}
        sys.stderr = open(_stderr, "w", 1, **options)  # noqa: SIM115


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
