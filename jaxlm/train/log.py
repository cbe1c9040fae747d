"""Metrics of each step, on the device → metrics.jsonl, TensorBoard and the screen.

`defer` fetches only the metrics of the previous step, so the devices never wait for the
host. A `Mean` is summed over the steps since the last line and divided when it is
written; other values are those of the line's own step. Lines are due at step 1 and at
multiples of `log.every`, so a resumed run writes the lines of an uninterrupted run.
Evaluated steps and the last step get lines too, which do not reset the sums. Only
process 0 writes and prints; every process gets the fetched figures.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import jax
import numpy as np

from jaxlm.config import RunConfig
from jaxlm.devices import peak_flops
from jaxlm.metrics import Figure, Mean, add, figures
from jaxlm.train.log_files import LogFiles
from jaxlm.train.screen import Screen
from jaxlm.train.times import Speed, Times

# Fields of every line, known or not.
_UNKNOWN = dict.fromkeys(("loss", "learning_rate", "grad_norm"), math.nan)
_UNKNOWN |= {"skipped": 0}


class Log(AbstractContextManager):
    """Writes the metrics of a run from step `start` to step `last`.

    `carry` is the result of `carry()` in the checkpoint of `start`. Lines of later
    steps, from a killed run, are removed. `stream` and `clock` are for tests.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        config: RunConfig,
        start: int,
        last: int,
        carry: Mapping[str, Any] | None = None,
        *,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._clock, self._start = config, clock, start
        self.step, self.last = start, last  # newest step with figures; last of all
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        sums = (carry or {}).get("sums", {})
        self._sums = {name: Mean(*each) for name, each in sums.items()}
        self._own: dict[str, Any] = {}  # what the newest step has that is no Mean
        self._speed: Speed | None = None
        stream = None if jax.process_index() else stream or sys.stdout
        self._screen = Screen(stream, start, last)
        self.say = self._screen.say  # a line, above the bar if there is one
        tensorboard = config.log.tensorboard
        self._files = LogFiles(workdir, start, self.say, tensorboard=tensorboard)
        before = self._files.newest("times")
        self.times = Times(before, clock)
        if "time" not in before:
            self._files.write("times", {"step": start, **self.times.record()})
        newest = self._files.newest("metrics")
        self._written = newest.get("step", -1)  # newest step with a line
        # Whether the line of the first step has an evaluation.
        self.evaluated = self._written == start and any("eval_" in k for k in newest)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # What ended the run says more than a failure of its log.
        with suppress(Exception) if error else nullcontext():
            self.close()

    @contextmanager
    def compiling(
        self, what: str, *, tokens: float, flops: float = math.nan
    ) -> Iterator[list[str]]:
        """Time and announce a compilation; rates are measured from its end.

        `tokens` and `flops` (of the model, for MFU) are means over steps. What is added
        to the list is announced, too.
        """
        self.flush()
        self._screen.below = f"compiling {what}"
        start, more = self._clock(), list[str]()
        with self.times.during("compile"):
            yield more
        seconds = self._clock() - start
        # Here, while the devices are idle: on a CPU it is measured.
        precision = self._config.precision
        peak = sum(peak_flops(each, precision) for each in jax.devices())
        self._screen.below = ""
        self.say("; ".join([f"compiled {what} in {seconds:.1f} s", *more]))
        now = self._clock(), self.step
        self._speed = Speed(tokens, flops / peak, compiled=now, line=now)

    @contextmanager
    def pause(self, what: str) -> Iterator[None]:
        """Exclude an evaluation or a save from the rates, but not from the ETA."""
        self.flush()
        start = self._clock()
        with jax.profiler.TraceAnnotation(what), self.times.during(what):
            yield
        if self._speed:
            self._speed.paused += self._clock() - start

    @property
    def skipped(self) -> range:
        """Steps that changed nothing, up to the newest one that was fetched."""
        end = self.step + 1
        return range(end - self._own.get("skipped_in_row", 0), end)

    def wants(self, step: int) -> bool:
        """Whether a step gets a line in any case."""
        return self._due(step) or step == self.last

    def _due(self, step: int) -> bool:
        return step == 1 or step % self._config.log.every == 0

    def defer(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take the metrics of the step just dispatched; return those of the previous.

        `metrics` has `Mean`s, scalars and strings, on device or not. The result has
        numbers and strings, and "step"; it is None at the first call.
        """
        for leaf in jax.tree.leaves(metrics):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        before = self.flush()
        self._pending = step, metrics
        return before

    def flush(self) -> dict[str, Any] | None:
        """Wait for the pending step and return its metrics; None if none is pending.

        The metrics are added to the sums, and the step's line is written if it is due.
        """
        if self._pending is None:
            return None
        (self.step, metrics), self._pending = self._pending, None
        sums, self._own = {}, {}
        metrics = jax.device_get(metrics)
        self.times.step_done()
        for name, value in metrics.items():
            if isinstance(value, Mean):
                # Python floats: exact when added one after another, exact as JSON.
                sums[name] = Mean(float(value.total), float(value.weight))
                # A step whose gradient was not finite may have no loss to add.
                if math.isfinite(value.total):
                    old = self._sums.get(name, Mean(0.0, 0.0))
                    self._sums[name] = add(old, sums[name])
            else:
                text = isinstance(value, str)
                self._own[name] = value if text else np.asarray(value).item()
        if self._due(self.step):
            self._write()
            self._sums = {}
            self.times.new_line()
            if self._speed:
                self._speed.line, self._speed.paused = (self._clock(), self.step), 0.0
        else:
            self._screen.show(*self._record())
        now = self._clock(), self.step, self.last
        if self._speed and (told := self._speed.estimate(*now)):
            self.say(told)
        return {"step": self.step, **figures(sums), **self._own}

    def carry(self) -> dict[str, Any]:
        """The sums for the next line, as JSON, for a run that resumes at this step."""
        self.flush()
        return {"sums": {name: list(each) for name, each in self._sums.items()}}

    def evaluation(
        self, result: Mapping[str, Any], declared: Sequence[Figure] = ()
    ) -> None:
        """Add the figures of an evaluation, as `eval_…`, to the newest step's line."""
        self.flush()
        self._write({f"eval_{name}": each for name, each in result.items()})
        self._screen.evaluation(self.step, result, declared)

    def samples(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write what the model says at the newest step, a line of samples.jsonl."""
        self.flush()
        self._files.write("samples", {"step": self.step, "samples": records})

    def record_times(self, *, ended: bool = False) -> None:
        """Record the times of the run up to a step that is saved, and upload all."""
        if self.step > self._start:
            record = {"step": self.step, **self.times.record(ended=ended)}
            self._files.write("times", record)
        self._files.upload()

    def close(self) -> None:
        """Write pending metrics and end the progress bar; called by `with`."""
        try:
            self.flush()
            if self._speed and self.step != self._written:
                self._write()
            self._files.upload()
        finally:
            self._screen.close()
            self._files.close()

    def _write(self, more: Mapping[str, Any] | None = None) -> None:
        """Write a line with the sums so far, or add `more` to the line of the step."""
        record: dict[str, Any] = {"step": self.step}
        if self.step != self._written:
            record, seconds_left = self._record()
            self._screen.show(record, seconds_left, line=True)
        self._written = self.step
        self._files.write("metrics", record | dict(more or {}))

    def _record(self) -> tuple[dict[str, Any], float]:
        """(a record of the newest figures, the seconds until the last step)."""
        rate, mfu, seconds_left = self.speed()
        record = {"step": self.step, **_UNKNOWN, **figures(self._sums), **self._own}
        if not self._config.finetunes:
            record["tokens"] = self._config.read(self.step)
        rates = {"tokens_per_second": rate, "mfu": mfu}
        return record | rates | self.times.fields(), seconds_left

    def speed(self) -> tuple[float, float, float]:
        """(tokens per second, MFU, seconds until the last step)."""
        if not self._speed:
            return (math.nan,) * 3
        return self._speed.now(self._clock(), self.step, self.last)
