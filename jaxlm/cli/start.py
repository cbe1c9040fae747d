"""Before the first device is touched: many hosts, compilation cache."""

from __future__ import annotations

import os
from pathlib import Path

# Where a job runs as several processes, each launcher says so in its own way.
_PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def start_jax() -> None:
    """Join the other hosts, if there are any, and keep compiled programs on disk."""
    import jax

    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    counts = [int(os.environ.get(name, "1")) for name in _PROCESS_COUNTS]
    if max(hosts, *counts) > 1:
        jax.distributed.initialize()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", f"{home}/jaxlm/xla")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
