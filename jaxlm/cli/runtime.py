"""What a verb does before JAX runs: signals, memory, other hosts, compiled code.

Of several hosts, some verbs run on all, others on the first: `Where`.
"""

import atexit
import contextlib
import enum
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from jaxlm.files import cache_of, host_log, remove_temporary
from jaxlm.signals import catch, leave_terminal
from jaxlm.types import INTERRUPTED

if TYPE_CHECKING:
    from jaxlm.hosts import Job
    from jaxlm.train.ending import End, Ending

_LOST = r"Gloo|NCCL|Connection (reset|closed)|Socket closed|UNAVAILABLE"

_INTERRUPTED = "interrupted; run the same command to resume"

# The number of a process and the count, as launchers set them.
_NUMBERS = {
    "JAX_PROCESS_ID": "JAX_NUM_PROCESSES",
    "RANK": "WORLD_SIZE",
    "SLURM_PROCID": "SLURM_NTASKS",
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
}


class Where(enum.Enum):
    """On which of several hosts a verb runs."""

    ALL = "on all of them, together"
    FIRST = "on the first; the others wait, because a pod's devices need all hosts"
    ALONE = "on the first, which joins no other; the others end at once"


class Command:
    """The verb that runs: where, how it ends, and its hosts if it has joined them."""

    def __init__(self, verb: str, where: Where):
        self.verb, self.where, self.status, self.failed = verb, where, 1, True
        self.job: Ending | None = None


_command: Command | None = None  # None: a function of the library was called
_witnesses: list[subprocess.Popen] = []
_stderr = 2  # the terminal's; with several hosts, native code has another


def say(*lines: str) -> None:
    """Print lines on standard error: standard output is for results."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def end_on_signals(status: int, *, done: bool = False) -> None:
    """Make the signals that end a command do so with `status` and a message.

    A second signal ends it at once. `done`: the work is finished, so no message. The
    handlers do not raise, because callbacks of libraries swallow exceptions and some
    modules break if their import is interrupted. Training has its own handlers
    (`train/stopping.py`).
    """

    def end(number: int, frame: Any) -> None:
        catch(lambda number, _: os._exit(128 + number))
        if number == signal.SIGHUP:
            leave_terminal()
        _end_process(status, "" if done else _INTERRUPTED)

    caught = catch(end)
    for number in caught if done else ():
        # Python resets handlers long before it ends, but ignores what we do.
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _end_process(status: int, line: str, *, leave: bool = False) -> None:
    """End the process, whatever its main thread does, and keep no temporary file."""
    if line:
        shown = b"\x1b[?25h\n" * sys.stderr.isatty()  # a bar hides the cursor
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(_stderr, shown + f"jaxlm: {line}\n".encode())
    remove_temporary()
    for worker in multiprocessing.active_children():
        worker.kill()  # one that starts would complain of what is gone
    if processes := sys.modules.get("multiprocessing.util"):
        processes._run_finalizers(0)  # else its tracker warns of leaked semaphores
    if leave:
        from jaxlm.train.ending import leave_together

        leave_together()
    os._exit(status)


@contextlib.contextmanager
def running(verb: str, where: Where) -> Iterator[Command]:
    """While a verb runs. At its end the hosts of a job end together, if this one has
    joined it; the status of the first is that of hosts that have none of their own."""
    global _command
    before, _command = _command, Command(verb, where)
    try:
        yield _command
    finally:
        command, _command = _command, before
        if command.job:
            from jaxlm.train.ending import end_together

            command.status = end_together(command.status, failed=command.failed)


def is_left_to_first(where: Where) -> bool:
    """Whether this host, as its launcher numbers it, has nothing to do."""
    get = os.environ.get
    found = (get(n, "") for n, count in _NUMBERS.items() if get(n) and get(count))
    number = next(found, "0")
    if where is not Where.ALONE or number == "0":
        return False
    _say_left_to_first(number)
    return True


def _say_left_to_first(host: str) -> None:
    say(f"jaxlm: host {host} has nothing to do: host 0 does the work of this verb")


def start_jax(workdir: str | None = None, hosts: str = "") -> None:
    """Join the other hosts, as `hosts.join` says, and keep compiled programs on disk.

    All go on, or only the first, as `Where` says. With a workdir, what is printed on
    other hosts than the first goes to their logs; see `show_errors`.
    """
    from jaxlm.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    if not jax.distributed.is_initialized():
        _join(workdir, hosts)
    if _command and jax.distributed.is_initialized():
        from jaxlm.train.ending import end_together, ending

        if not _command.job and (job := ending(_end_as_told)):
            _command.job = job
            job.check(_command.verb)
        if _command.where is Where.FIRST and jax.process_index():
            _say_left_to_first(str(jax.process_index()))
            raise SystemExit(end_together(0, failed=False))
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_of("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _join(workdir: str | None, hosts: str) -> None:
    from jaxlm.hosts import join

    shown: list[int] = []

    def before(job: "Job") -> None:
        if _command:
            _end_on_signals_anywhere()
        if workdir is None and not _command:
            return
        _keep_log(workdir or "", job)
        if job.number and workdir is not None:
            os.dup2(2, 1)
            sys.stdout = sys.stderr
            return
        show_errors()
        sys.stdout.flush()
        shown.append(os.dup(1))
        os.dup2(2, 1)  # native code tells of connections

    try:
        join(hosts, before)
    finally:
        for file in shown:
            os.dup2(file, 1)
            os.close(file)


def _end_on_signals_anywhere() -> None:
    """Have a thread handle signals, because Python's handlers do not run while the main
    thread waits for other hosts. Once all have joined, all end."""

    def handler(number: int, frame: Any) -> None:
        pass

    def tell() -> None:
        job = _command.job if _command else None
        if not job or job.tell(INTERRUPTED, "interrupted").how != "interrupted":
            _end_process(INTERRUPTED, _INTERRUPTED)  # else `_end_as_told`

    def watch() -> None:
        asked = False
        while True:
            number = os.read(signals, 1)[0]
            if signal.getsignal(number) is not handler:
                continue  # the training loop has caught it
            if not asked:
                threading.Thread(target=tell, daemon=True).start()
            elif number != signal.SIGHUP:  # which the shell and Linux repeat
                os._exit(128 + number)
            asked = True

    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    catch(handler)


def _end_as_told(end: "End") -> None:
    """End this process as another host has ended, or as a signal asks."""
    import jax

    line = f"host {end.host} has stopped with status {end.status}: its output says why"
    if end.how == "interrupted":
        line = f"host {end.host} was {_INTERRUPTED}"
        line = _INTERRUPTED if end.host == jax.process_index() else line
    _end_process(end.status, line, leave=True)


def _keep_log(workdir: str, job: "Job") -> None:
    """Send what native code says of errors to `host_log`; see `witness.py`."""
    from jaxlm.cli import witness

    log = host_log(workdir, job.number)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, witness.__file__, str(log), str(job.number), job.address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin
    global _stderr
    _stderr = os.dup(2)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    _witnesses.append(process)  # collected, it would warn that it still runs


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
