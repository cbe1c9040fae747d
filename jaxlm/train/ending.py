"""How the hosts of a job end together, in training and in other verbs.

A signal to one host, the status of the first, or a mistake → all hosts, by JAX's store.
"""

import atexit
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
from jax._src import distributed

from jaxlm import hosts
from jaxlm.types import UserError

_LOOK = 0.5  # seconds between two looks for how the job ends
_GRACE = 5  # seconds after a mistake of another host in which this one may notice


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

    def check(self, verb: str) -> None:
        """UserError if the first host runs another verb: they would wait for ever."""
        key = f"{self._key}/verb"
        if self._host == 0:
            self._store.key_value_set(key, verb)
        elif (first := self._store.blocking_key_value_get(key, 60_000)) != verb:
            raise UserError(f"this host runs {verb}, but host 0 runs {first}")

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
            time.sleep(hosts.HEARTBEAT + 20)  # a host is lost: JAX ends the process
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
            with suppress(jax.errors.JaxRuntimeError):  # JAX ends it if a host is lost
                end = self.told()
        if end.how == "interrupted":
            with self._lock:
                self._stop = self._agreed()
            if self._stop is None:
                self._act(end)
        elif end.how == "failed" and not self._closed.wait(_GRACE):
            self._act(end)

    def _agreed(self) -> int | None:
        """The step at which all stop; None: a host is not in the loop, or is lost."""
        step, key = -1 if self._step is None else self._step, f"{self._key}/at/"
        steps, until = [], time.monotonic() + 60
        try:
            self._store.key_value_set(f"{key}{self._host}", str(step))
            while len(steps) < self._count and time.monotonic() < until:
                time.sleep(0.02)
                steps = [int(at) for _, at in self._store.key_value_dir_get(key)]
        except jax.errors.JaxRuntimeError:
            return None
        all_are = len(steps) == self._count and -1 not in steps
        return max(steps) + 1 if all_are else None


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
