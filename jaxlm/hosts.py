"""The hosts of a run: who they are, joining them, what they agree on, how they end.

Launcher's variables, or the metadata server of a TPU → `join` → collectives of JAX.
"""

import atexit
import functools
import importlib.util
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
_LOOK = 0.5  # seconds between two looks for how the job ends
_GRACE = 5  # seconds after a mistake of another host in which this one may notice
_BLOCK = 4096  # bytes; texts are gathered in whole blocks, so that few programs compile

T = TypeVar("T")


class Job(NamedTuple):
    """The hosts of a job, as `jax.distributed.initialize` takes them."""

    address: str
    count: int
    number: int
    devices: Any = None  # local device numbers; None: all


def join(hosts: str = "auto", before: Callable[[int], None] = lambda _: None) -> None:
    """Join the other hosts of this job, if there are any.

    `hosts` is "auto", "off" or the number of hosts that must join. "off" asks nobody;
    "", of verbs without --hosts, is auto without refusing what is told by half.
    `before` is called with this host's number. If a host does not come within LIMIT
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
    if not 0 <= job.number < count:
        raise UserError(f"host {job.number} is not one of {count}, numbered from 0")
    before(job.number)
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


class End(NamedTuple):
    """How a host ends."""

    host: int
    status: int
    how: str  # finished, failed or interrupted


class Ending:
    """How the hosts of this job end. They tell one another by the store of JAX.

    The first end that is told holds for all. If a host is interrupted while all are in
    the training loop, all stop after the same step. In all other cases `act` is called
    to end this process. A thread looks for ends, because the main thread may wait for
    another host.
    """

    def __init__(self, act: Callable[[End], None]):
        job = distributed.global_state
        self._store: Any = job.client
        self._host, self._count, self._act = job.process_id, job.num_processes, act
        self._key = f"jaxlm/end/{next(_number)}"  # all hosts run the same commands
        self._lock = threading.Lock()
        self._step: int | None = None  # the newest of the loop; None: not in the loop
        self._stop: int | None = None  # the step to stop at
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ending", daemon=True)
        self._thread.start()
        atexit.register(self._end_thread)  # else it crashes in native code

    def tell(self, status: int, how: str) -> End:
        """Tell how this host ends, unless another end was told; returns what holds."""
        text = json.dumps(End(self._host, status, how))
        with suppress(jax.errors.JaxRuntimeError):  # ALREADY_EXISTS
            self._store.key_value_set(self._key, text)
        return self.told() or self.tell(status, how)

    def told(self) -> End | None:
        """How the job ends, if that was told."""
        try:
            return End(*json.loads(self._store.key_value_try_get(self._key)))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
        return None

    @contextmanager
    def loop(self) -> Iterator[Callable[[int], bool]]:
        """The training loop; yields a function step → whether to stop at that step."""

        def stops(step: int) -> bool:
            with self._lock:  # waits while hosts agree
                if self._stop is None:
                    self._step = step
                return self._stop is not None and step >= self._stop

        with self._lock:
            self._step = 0
        try:
            yield stops
        finally:
            with self._lock:
                self._step = None
                self._stop = None if self._stop is None else 0  # of a loop after this

    def close(self, status: int, *, failed: bool) -> int:
        """End this host: its status, or that of the first host, which is waited for."""
        try:
            if failed or self._host == 0:
                self.tell(status, "failed" if failed else "finished")
            while (end := self.told()) is None:
                time.sleep(_LOOK)
        except jax.errors.JaxRuntimeError:
            time.sleep(HEARTBEAT + 20)  # a host is lost: JAX ends the process
            raise
        if end.how == "interrupted":
            self._thread.join()  # it may end the process
        self._end_thread()
        return status or end.status

    def _end_thread(self) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        end = None
        while not end:
            if self._closed.wait(_LOOK):
                return
            try:
                end = self.told()
            except jax.errors.JaxRuntimeError:
                return  # a host is lost: JAX ends the process
        if end.how == "interrupted":
            with self._lock:
                self._stop = self._agreed()
            if self._stop is None:
                self._act(end)
        elif end.how == "failed" and not self._closed.wait(_GRACE):
            self._act(end)

    def _agreed(self) -> int | None:
        """The step at which all stop; None: a host is not in the loop, or is lost."""
        step = -1 if self._step is None else self._step
        keys = [f"{self._key}/{host}" for host in range(self._count)]
        try:
            self._store.key_value_set(keys[self._host], str(step))
            get = self._store.blocking_key_value_get
            steps = [int(get(key, 60_000)) for key in keys]
        except jax.errors.JaxRuntimeError:
            return None
        return None if -1 in steps else max(steps) + 1


_number = itertools.count()  # of endings
_ending: Ending | None = None  # of the command that runs


def ending(act: Callable[[End], None] = lambda _: None) -> Ending | None:
    """How the hosts of this job end; None if there is one host."""
    global _ending
    if _ending is None and jax.distributed.is_initialized():
        _ending = Ending(act)
    return _ending


def end_together(status: int, *, failed: bool) -> int:
    """End this host's part of a command; its status. See `Ending.close`."""
    global _ending
    job, _ending = _ending, None
    return job.close(status, failed=failed) if job else status


def leave_together() -> None:
    """Leave the job once all hosts do, so that none takes another for lost."""

    def shut_down() -> None:
        with suppress(Exception):
            jax.distributed.shutdown()

    thread = threading.Thread(target=shut_down, daemon=True)
    thread.start()
    thread.join(20)


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
    port = int(os.environ.get("MASTER_PORT", "29500")) + taken
    port = os.environ.get("JAX_COORDINATOR_PORT", port)
    several = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    devices = [int(os.environ["LOCAL_RANK"])] if several else None
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


def _count(name: str) -> int:
    value = os.environ.get(name, "1")
    return int(value) if value.isdecimal() else 1


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
