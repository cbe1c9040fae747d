"""What a verb does before JAX runs: signals, memory, other hosts, compiled code."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jaxlm.types import UserError

# Launchers' variables with the number of processes of a job.
_PROCESS_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# Without a launcher; all but the last are equal in all processes.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

T = TypeVar("T")


def say(text: str) -> None:
    """Print a line on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does; a second signal exits.

    Signals that the caller ignores or handles are not changed. Training has its own
    handlers (`train/loop.py`).
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    caught = [number for number in usual if signal.getsignal(number) == usual[number]]
    if threading.current_thread() is not threading.main_thread():
        caught = []

    def at_once(number: int, frame: Any) -> None:
        os._exit(128 + number)

    def interrupt(number: int, frame: Any) -> None:
        for each in caught:
            signal.signal(each, at_once)
        raise KeyboardInterrupt

    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, usual[number])


def exit_on_signals(status: int) -> None:
    """From now on a signal ends the process with `status`: all its work is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(status))


def start_jax() -> None:
    """Join the other hosts, if there are any, and keep compiled programs on disk."""
    from jaxlm.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    if not jax.distributed.is_initialized():
        _join_hosts()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", f"{home}/jaxlm/xla")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _join_hosts() -> None:
    import jax
    from jax.experimental import multihost_utils

    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    counts = [int(os.environ.get(name, "1")) for name in _PROCESS_COUNTS]
    if "JAX_NUM_PROCESSES" in os.environ:
        # jax itself reads only the address.
        missing = [name for name in _BY_HAND if not os.environ.get(name)]
        if missing:
            raise UserError(f"JAX_NUM_PROCESSES is set without {', '.join(missing)}")
        address, count, number = (os.environ[name] for name in _BY_HAND)
        if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
            raise UserError(
                f"JAX_PROCESS_ID={number} is not one of JAX_NUM_PROCESSES={count}"
            )
        jax.distributed.initialize(address, int(count), int(number))
    elif max(hosts, *counts) > 1:
        jax.distributed.initialize()
    else:
        return
    # Wait for all hosts here: on CPUs the first collective fails if a host arrives 30 s
    # after another, which it may if it has to compile first. Later collectives wait.
    multihost_utils.sync_global_devices("start")


def in_turn(work: Callable[[], T]) -> T:
    """The result of `work()`, called first on the first host, then on all others.

    On a shared disk, other hosts find the work done; on local disks, each host does it.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return work()
    done, mistake = [], None
    if jax.process_index() == 0:
        try:
            done = [work()]
        except Exception as error:
            mistake = error
    failed = multihost_utils.broadcast_one_to_all(mistake is not None)
    if failed:
        raise mistake or UserError("the first host has stopped and says why")
    return done[0] if done else work()
