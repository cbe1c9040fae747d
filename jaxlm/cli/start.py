"""Before the first device is touched: memory, many hosts, compilation cache."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxlm.types import UserError

# Where a job runs as several processes, each launcher says so in its own way.
_PROCESS_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# Without a launcher: the same in all processes but for the last.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_STREAMED = 2**25  # bytes; the largest that glibc takes

T = TypeVar("T")


def start_jax(*, streams: bool = False) -> None:
    """Join the other hosts, if there are any, and keep compiled programs on disk.

    Args:
        streams: whether weights pass through once, tensor by tensor, see
            `keep_freed_memory`.

    Raises:
        UserError: the variables that name the hosts by hand make no sense.
    """
    keep_freed_memory(most=_STREAMED if streams else 0)
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
        # jax itself reads the first of them only.
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
    # Now that all are here: the first collective of CPUs fails where a host comes 30 s
    # after another, as it may that has to compile first. Later ones wait.
    multihost_utils.sync_global_devices("start")


def in_turn(work: Callable[[], T]) -> T:
    """`work()` on the first host, then on the others: of a disk that they share they
    find it done, on disks of their own each does it.

    Raises:
        UserError: it failed on the first host, which raises what `work` did.
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
        raise mistake or UserError("the first host has stopped; it says why")
    return done[0] if done else work()


def keep_freed_memory(*, most: int = 0) -> None:
    """Let glibc keep what is freed, in one heap; before any thread starts.

    By default it gives each large block back to the kernel and takes it again in the
    next step: on a CPU 200,000 page faults, 10 to 15 % of the time of a step.

    Args:
        most: bytes of a block from which on it is given back after all; 0: none is.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        arena_max, mmap_max, mmap_threshold, trim_threshold = -8, -4, -3, -1
        mapped = (mmap_threshold, most) if most else (mmap_max, 0)
        for name, value in ((arena_max, 1), mapped, (trim_threshold, -1)):
            ctypes.CDLL(None).mallopt(name, value)
