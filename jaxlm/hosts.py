"""The hosts of a run: who they are, joining them, and what they must agree on.

Launcher's variables, or the metadata server of a TPU → `join` → collectives of JAX.
"""

import errno
import functools
import importlib.util
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from jaxlm.types import UserError

HEARTBEAT = 100  # seconds without a sign of life after which a host is lost
LIMIT = 300  # seconds to wait for all hosts at the start

_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TORCHRUN = ("MASTER_ADDR", "WORLD_SIZE", "RANK")
_BLOCK = 4096  # bytes; texts are gathered in whole blocks, so that few programs compile

T = TypeVar("T")


class Job(NamedTuple):
    """The hosts of a job, as `jax.distributed.initialize` takes them."""

    address: str
    count: int
    number: int
    devices: Any = None  # local device numbers; None: all


def join(hosts: str = "auto", before: Callable[[Job], None] = lambda _: None) -> None:
    """Join the other hosts of this job, if there are any.

    `hosts` is "auto", "off" or the number of hosts that must join. "off" asks nobody;
    "", of verbs without --hosts, is auto without refusing what is told by half.
    `before` is called with the job. If a host does not come within LIMIT
    seconds, JAX ends the others from C++ and names it; `witness.py` says so in a line.
    """
    if hosts == "off":
        return
    if hosts not in ("", "auto") and not (hosts.isdecimal() and int(hosts)):
        raise UserError(f"--hosts {hosts} is none of auto, off and a number of hosts")
    job = find_job(strict=hosts != "")
    count = job.count if job else 1
    if hosts.isdecimal() and count != int(hosts):
        remedy = "start the same command on each of them, or give another --hosts"
        raise UserError(f"--hosts {hosts}, but this job has {count}: {remedy}")
    if job is None or count == 1:
        return
    if not job.address.rpartition(":")[2].isdecimal():
        raise UserError(f"the address of host 0, {job.address}, ends in no port")
    if not 0 <= job.number < count:
        raise UserError(f"host {job.number} is not one of {count}, numbered from 0")
    if job.number == 0:
        _check_port(job.address)
    before(job)
    # It would take SIGTERM for itself; see `Ending`.
    jax.config.update("jax_enable_preemption_service", False)
    # The first host's patience, which JAX does not pass on, ends before that of the
    # others: so all are told who is missing.
    service = distributed._jax.get_distributed_runtime_service
    service = functools.partial(service, cluster_register_timeout=LIMIT)
    with mock.patch.object(
        distributed._jax, "get_distributed_runtime_service", service
    ):
        jax.distributed.initialize(
            *job,
            cluster_detection_method="deactivate",
            initialization_timeout=LIMIT + 30,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    # Wait for all hosts here: on CPUs the first collective fails if a host arrives 30 s
    # after another, which it may if it has to compile first. Later collectives wait.
    multihost_utils.sync_global_devices("start")


def _check_port(address: str) -> None:
    """UserError if the first host cannot listen at its port: JAX would crash."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", address)
    port = int(bind.rpartition(":")[2])
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = f"port {port} of host 0 is taken, by another job perhaps"
                raise UserError(f"{what}: end it, or take another port") from None


def find_job(strict: bool = True) -> Job | None:
    """The job that this process is part of, or None.

    `strict`: a UserError if a variable tells of other hosts, but not who they are.
    """
    values = os.environ
    if "JAX_NUM_PROCESSES" in values:  # jax itself reads only the address
        return Job(*_numbers(_BY_HAND))
    if all(values.get(name) for name in _TORCHRUN):
        return _torchrun()
    if count := values.get("SLURM_STEP_NUM_TASKS"):  # the step's; jax reads the job's
        values["SLURM_NTASKS"] = count
    if job := _found_by_jax():
        return job
    if strict:
        _check_left_out()
    return None


def _numbers(names: tuple[str, str, str]) -> tuple[str, int, int]:
    """The address, count and number in three variables."""
    if missing := [name for name in names if not os.environ.get(name)]:
        raise UserError(f"{names[1]} is set without {', '.join(missing)}")
    address, count, number = (os.environ[name] for name in names)
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise UserError(f"{names[2]}={number} is not one of {names[1]}={count}")
    return address, int(count), int(number)


def _torchrun() -> Job:
    address, count, number = _numbers(_TORCHRUN)
    # An agent of torchrun listens at the port itself.
    taken = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    port = _count("MASTER_PORT", "29500") + taken
    port = os.environ.get("JAX_COORDINATOR_PORT", port)
    several = _count("LOCAL_WORLD_SIZE") > 1
    devices = [_count("LOCAL_RANK", "")] if several else None
    return Job(f"{address}:{port}", count, number, devices)


def _found_by_jax() -> Job | None:
    """The job that JAX finds: by MPI, Slurm, GKE, TPU metadata or Kubernetes.

    Without the variables of one of these and without a TPU, JAX asks nobody.
    """
    from jax._src.clusters import ClusterEnv

    # JAX would ask the API server from any pod, but only indexed jobs have hosts.
    several = "JOB_COMPLETION_INDEX" in os.environ
    hidden = None if several else os.environ.pop("KUBERNETES_SERVICE_HOST", None)
    method = None
    if _count("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        method = "mpi4py" if importlib.util.find_spec("mpi4py") else None
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, method, LIMIT
        )
    except Exception as error:
        remedy = f"set {', '.join(_BY_HAND)}, or pass --hosts off"
        said = f"{type(error).__name__}: {error}"
        raise UserError(
            f"cannot find the hosts of this job: {said}; {remedy}"
        ) from error
    finally:
        if hidden is not None:
            os.environ["KUBERNETES_SERVICE_HOST"] = hidden
    address, count, number, devices = found
    if address is None or count is None or number is None:
        return None
    return Job(address, count, number, devices)


def _count(name: str, default: str = "1") -> int:
    value = os.environ.get(name) or default
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not a number")
    return int(value)


def _check_left_out() -> None:
    """UserError if a launcher's variable tells of several hosts that nothing names."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    remedies = {
        "SLURM_NTASKS": (_count("SLURM_NTASKS"), "start it by srun"),
        "OMPI_COMM_WORLD_SIZE": (_count("OMPI_COMM_WORLD_SIZE"), "install mpi4py"),
        "WORLD_SIZE": (_count("WORLD_SIZE"), "set RANK and MASTER_ADDR too"),
        "TPU_WORKER_HOSTNAMES": (hosts, 'pip install "jax[tpu]"'),
        "MEGASCALE_NUM_SLICES": (_count("MEGASCALE_NUM_SLICES"), "start it on TPUs"),
        "JOB_COMPLETION_INDEX": (
            1 + ("JOB_COMPLETION_INDEX" in os.environ),
            "pip install kubernetes",
        ),
        "JAX_COORDINATOR_ADDRESS": (
            1 + ("JAX_COORDINATOR_ADDRESS" in os.environ),
            "set JAX_NUM_PROCESSES and JAX_PROCESS_ID too",
        ),
    }
    for name, (count, remedy) in remedies.items():
        if count > 1:
            what = f"{name}={os.environ[name]} tells of other hosts"
            raise UserError(f"{what}, but not who they are: {remedy}, or --hosts off")


def gathered(text: str) -> list[str]:
    """The texts of all hosts, in order of their numbers; all hosts must call this."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(-(-max(1, int(sizes.max())) // _BLOCK) * _BLOCK, np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [row[:n].tobytes().decode() for row, n in zip(rows, sizes, strict=True)]


def together(work: Callable[[], T]) -> T:
    """The result of `work()` on this host; a mistake of one host ends all hosts."""
    if jax.process_count() == 1:
        return work()
    done, mistake = [], None
    try:
        done = [work()]
    except Exception as error:
        mistake = error
    said = gathered(f"{type(mistake).__name__}: {mistake}" if mistake else "")
    if mistake:
        raise mistake
    for number, text in enumerate(said):
        if text:
            reason = text.removeprefix("UserError: ")
            raise UserError(f"host {number} has stopped: {reason}")
    return done[0]


def in_turn(work: Callable[[], T]) -> T:
    """The result of `work()`, called first on the first host, then on all others.

    On a shared disk, other hosts find the work done; on local disks, each host does it.
    """
    if not jax.distributed.is_initialized():  # and no device is touched here
        return work()
    first = jax.process_index() == 0
    before = together(lambda: work() if first else None)
    after = together(lambda: None if first else work())
    return before if first else after  # type: ignore[return-value]


def agree(facts: Mapping[str, Any]) -> None:
    """UserError on all hosts, with names, if a value differs from the first host's.

    The names of values in dictionaries are joined by dots.
    """
    if jax.process_count() == 1:
        return
    from flax.traverse_util import flatten_dict

    facts = flatten_dict(dict(facts), sep=".")
    own = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
    first, *others = map(json.loads, gathered(json.dumps(own)))
    lines = []
    for number, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            here, there = (each.get(name, "missing") for each in (first, other))
            if here != there:
                lines.append(f"host {number}: {name} is {there}, on host 0 {here}")
    if lines:
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        head = "the hosts differ; give all of them the same command, code and data:"
        raise UserError("\n  ".join([head, *lines[:20], *more]))
