"""Where a run's wall time goes; a heartbeat, and the stacks of a run that hangs.

    times = Times(before)              of an earlier invocation, from times.jsonl
    with times.during("save"): …       the rest of the time is a step's
    times.step_done()
    with watching(times, log, workdir): …

The parts, in seconds of the host's clock; together they are the run's life:

    data       blocked in `next(batches)`. A step in flight goes on meanwhile, so this
               is the most that data can have cost.
    compile    compilation of steps and transforms
    save       from the request until the loop goes on; files are written meanwhile
    evaluate   evaluation, and saving the best parameters
    restart    before an invocation's first batch: reading of the checkpoint, and of
               the data. After a kill or a signal, also all time since the save from
               which the run goes on: steps that are made again, and the wait for
               machines
    step       the rest, so nearly all of it is the wait for the device: the loop
               fetches the figures of a step after it has dispatched the next one

Goodput is the share of `step`. What precedes `train` counts in restarts only: start-up
of Python, joining of hosts, opening of the corpus.
"""

import faulthandler
import math
import os
import signal
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxlm.files import host_log, place, write_json
from jaxlm.train.screen import about
from jaxlm.train.screen import clock as readable

PARTS = ("step", "data", "compile", "save", "evaluate", "restart")
# Of a line of metrics.jsonl.
FIELDS = ("seconds", "goodput", *(f"time_{part}" for part in PARTS))

BEAT = 5.0  # seconds between two heartbeats
_MEASURED = 5.0  # seconds of training by which the time of a run is estimated
_SLOW = 20  # a step that takes so many times the median hangs
_FLOOR, _UNKNOWN = 60.0, 600.0  # seconds that are no hang yet; before a median is known


class Times:
    """Seconds of each part over the life of a run.

    `before` is the record of the step from which the run goes on; `clock` and `today`
    are for tests.
    """

    def __init__(
        self,
        before: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
    ):
        self._clock, self._today = clock, today
        before = before or {}
        known = before.get("seconds", {})
        self._seconds = {part: known.get(part, 0.0) for part in PARTS}
        self._line = dict(self._seconds)  # at the previous line
        if "time" in before and not before.get("ended"):
            self._seconds["restart"] += max(0.0, today() - before["time"])
        self._state = "restart", clock()  # what is done, and since when
        self._took: deque[float] = deque(maxlen=100)  # seconds of the newest steps
        self.step_done(count=False)

    @property
    def doing(self) -> str:
        """The part that goes on now."""
        return self._state[0]

    @contextmanager
    def during(self, part: str, then: str = "") -> Iterator[None]:
        """Count time to a part; after it, to `then` or what was going on before."""
        before = self._turn(part)
        try:
            yield
        finally:
            self._turn(then or before)

    def _turn(self, part: str) -> str:
        (before, since), now = self._state, self._clock()
        self._seconds[before] += now - since
        self._state = part, now
        return before

    def seconds(self) -> dict[str, float]:
        """Seconds of each part until now."""
        part, since = self._state
        return self._seconds | {part: self._seconds[part] + self._clock() - since}

    def step_done(self, *, count: bool = True) -> None:
        """A step has ended: its figures are on the host."""
        if count:
            self._took.append(self.waited())
        self._worked = self._work()

    def _work(self) -> float:
        now = self.seconds()
        return now["step"] + now["data"]

    def waited(self) -> float:
        """Seconds since a step ended, without other parts than `step` and `data`."""
        return self._work() - self._worked

    def median(self) -> float:
        """Seconds of a usual step; NaN before five are known."""
        took = list(self._took)
        return statistics.median(took) if len(took) >= 5 else math.nan

    def lasted(self) -> float:
        """Seconds since the current part began."""
        return self._clock() - self._state[1]

    def late(self) -> str:
        """What takes far longer than usual: "step", "save" or ""."""
        if self.doing == "save":
            return self.doing if self.lasted() > _FLOOR else ""
        median = self.median()
        limit = _UNKNOWN if math.isnan(median) else max(_FLOOR, _SLOW * median)
        return "step" if self.waited() > limit else ""

    def fields(self) -> dict[str, float]:
        """Seconds and goodput of the run's life; the share of each part since
        `new_line`."""
        now = self.seconds()
        since = {part: now[part] - self._line[part] for part in PARTS}
        shares = {f"time_{part}": round(_share(part, since), 4) for part in PARTS}
        life = {"seconds": round(sum(now.values()), 1)}
        return {**life, "goodput": round(_share("step", now), 4), **shares}

    def new_line(self) -> None:
        """Count the shares of the next line from now."""
        self._line = self.seconds()

    def record(self, *, ended: bool = False) -> dict[str, Any]:
        """A line of times.jsonl. The time after one that `ended` is not the run's."""
        seconds = {part: round(each, 3) for part, each in self.seconds().items()}
        return {"time": round(self._today(), 3), "ended": ended, "seconds": seconds}

    def said(self) -> str:
        """The shares of the run's life, as a line for people."""
        now = self.seconds()
        shares = "  ".join(f"{part} {_share(part, now):.1%}" for part in PARTS[1:])
        life = readable(sum(now.values()))
        return f"goodput {_share('step', now):.1%} of {life}; {shares}"


def _share(part: str, seconds: Mapping[str, float]) -> float:
    return seconds[part] / (sum(seconds.values()) or 1.0)


@dataclass
class Speed:
    """The speed since the last line, and since the step was compiled."""

    tokens: float  # of a step
    peak_seconds: float  # of a step, at the peak rate of all devices
    compiled: tuple[float, int]  # when, and after which step
    line: tuple[float, int]  # when, and after which step, the newest line was written
    paused: float = 0.0  # seconds since that line that were spent on something else
    told: bool = False  # whether the time of the run has been estimated

    def now(self, now: float, step: int, last: int) -> tuple[float, float, float]:
        """(tokens per second, MFU, seconds until the last step)."""
        seconds, made = now - self.compiled[0], step - self.compiled[1]
        left = (last - step) * seconds / made if made else math.nan
        # One step alone says little: its time may have passed in the line before.
        if step - self.line[1] >= 2:
            seconds, made = now - self.line[0] - self.paused, step - self.line[1]
        rate = made / seconds if seconds > 0 else math.nan
        return rate * self.tokens, rate * self.peak_seconds, left

    def estimate(self, now: float, step: int, last: int) -> str:
        """How long the run will take; said once, after its first seconds, else ""."""
        made = step - self.compiled[1]
        if self.told or made < 2 or now - self.compiled[0] < _MEASURED:
            return ""
        self.told, left = True, self.now(now, step, last)[2]
        this = f"about {about(left)} here to step {last:,}, by the first {made} steps"
        return this * (left > _MEASURED)


class Watch:
    """Looks after the loop from a thread of its own; `log` is a `Log`."""

    def __init__(self, log: Any, workdir: str | Path):
        self._times, self._log, self._workdir = log.times, log, workdir
        self.stacks = host_log(workdir, jax.process_index())
        self._told, self._beat_at = "", -math.inf
        self._fails = False  # the last heartbeat was not written

    def look(self) -> None:
        """Write stacks if a step or a save hangs, once; a heartbeat if one is due."""
        late = self._times.late()
        if late and late != self._told:
            self._dump(late)
        self._told = late
        if time.monotonic() - self._beat_at >= BEAT:
            self.beat(self._times.doing)

    def _dump(self, late: str) -> None:
        times, step = self._times, self._log.step
        line = f"saving after step {step} has taken {times.lasted():.0f} s so far"
        if late == "step":
            usual = f"the median is {times.median():.3g} s"
            line = f"step {step + 1} has taken {times.waited():.0f} s so far, {usual}"
        line += f": the stacks of all threads are in {self.stacks}"
        try:
            self.stacks.parent.mkdir(parents=True, exist_ok=True)
            with open(self.stacks, "a") as file:
                print(f"{time.strftime('%FT%T%z')} {line}", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            line = f"{line}, which cannot be written: {error.strerror}"
        self._log.say(f"warning: {line}; each host has such a file")

    def beat(self, doing: str) -> None:
        """Replace heartbeat.json, on the first host."""
        if jax.process_index():
            return
        self._beat_at, log, median = time.monotonic(), self._log, self._times.median()
        left = log.speed()[2]
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "doing": doing,
            "step": log.step,
            "last": log.last,
            "seconds_in_step": round(self._times.waited(), 1),
            "median_step_seconds": None if math.isnan(median) else round(median, 4),
            "hangs": bool(self._times.late()),
            "eta_seconds": round(left) if math.isfinite(left) else None,
            "goodput": self._times.fields()["goodput"],
            "process": os.getpid(),
            "host": socket.gethostname(),
        }
        try:
            write_json(place(self._workdir) / "heartbeat.json", content)
            self._fails = False
        except Exception as error:
            if not self._fails:
                log.say(f"warning: heartbeat.json cannot be written, for now: {error}")
            self._fails = True


@contextmanager
def watching(log: Any, workdir: str | Path) -> Iterator[None]:
    """Watch the loop; SIGQUIT writes stacks to the standard error of native code."""
    watch, ended = Watch(log, workdir), threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            watch.look()

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    unused = signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
    if unused:
        faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    how = "failed"
    try:
        yield
        how = "finished" if log.step >= log.last else "stopped"
    finally:
        if unused:
            faulthandler.unregister(signal.SIGQUIT)
        ended.set()
        thread.join(BEAT)
        watch.beat(how)
