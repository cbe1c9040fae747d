"""Metrics of each step, on device, in → metrics.jsonl, TensorBoard and the screen out.

    with Log(workdir, config) as log:
        log.begin(start, last)
        with log.compiling("the step", …): …
        host = log.defer(step, metrics)              this step in, the one before out
        log.evaluation(figures)                      into the line of the newest step
        meta = {"log": log.carry()}                  to a checkpoint; back by `begin`

`defer` fetches only the step before the one just dispatched, so the devices never wait
for the host. A `Mean` is summed from line to line and divided when it is written; other
values are those of the line's own step. Lines are due at step 1 and at every multiple
of `log.every`, so a resumed run writes what an uninterrupted one would have; evaluated
steps and the last one get lines as well, which start no new sums. Only process 0 writes
and prints; every process gets the fetched figures.
"""

import io
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxlm.config import RunConfig
from jaxlm.devices import total_peak_flops
from jaxlm.metrics import Figure, Mean, add, figures
from jaxlm.train.metrics_files import MetricsLines, TensorBoardEvents
from jaxlm.train.screen import Screen

# Fields of every line, known or not.
_UNKNOWN = dict.fromkeys(("loss", "learning_rate", "grad_norm"), math.nan)
_UNKNOWN |= {"skipped": 0}


class Log:
    """What a run writes while it goes; other streams and clocks are for tests."""

    def __init__(
        self,
        workdir: str | Path,
        config: RunConfig,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._clock = config, clock
        self._first = jax.process_index() == 0
        self._screen = Screen(stream if self._first else io.StringIO())
        remote = self._first and str(workdir).startswith("gs://")
        self._remote = epath.Path(workdir) if remote else None
        self._local = Path(tempfile.mkdtemp("jaxlm") if remote else workdir)
        self._files: list[MetricsLines | TensorBoardEvents] = []
        self._speed: _Speed | None = None
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._step = self._last = 0  # newest step with figures; last of this invocation
        self._written = -1  # newest step with a line
        self._sums: dict[str, Mean] = {}
        self._own: dict[str, Any] = {}  # what the newest step has that is no Mean
        self.evaluated = False  # whether the line of the first step has an evaluation

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise  # else what ended the run says more than a failure of its log

    def begin(
        self, start: int, last: int, carry: Mapping[str, Any] | None = None
    ) -> None:
        """Open the files of a run that goes on from step `start` to step `last`.

        `carry` is what `carry()` gave for the checkpoint of `start`. Lines of later
        steps, from a run that was killed, are cut.
        """
        self._step, self._last = start, last
        sums = (carry or {}).get("sums", {})
        self._sums = {name: Mean(*each) for name, each in sums.items()}
        self._screen.begin(start, last)
        if not self._first:
            return
        self._local.mkdir(parents=True, exist_ok=True)
        path = self._local / "metrics.jsonl"
        if self._remote and (self._remote / path.name).exists():
            path.write_bytes((self._remote / path.name).read_bytes())
        lines = MetricsLines(path, start)
        self._files.append(lines)
        self._written = lines.newest["step"]
        self.evaluated = self._written == start and any(
            name.startswith("eval_") for name in lines.newest
        )
        if self._config.log.tensorboard:
            try:
                self._files.append(
                    TensorBoardEvents(self._local / "tensorboard", start)
                )
            except (OSError, ImportError) as error:
                self.say(f"warning: no TensorBoard events: {error}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one; process 0 only."""
        self._screen.say(text)

    @contextmanager
    def compiling(
        self, what: str, *, tokens: float, flops: float = math.nan
    ) -> Iterator[None]:
        """Time a compilation, say so, and count rates from its end.

        `tokens` and `flops` (of the model, for MFU) are those of a mean step.
        """
        self.flush()
        self._screen.below = f"compiling {what}"
        start = self._clock()
        yield
        seconds = self._clock() - start
        # Here, while the devices are idle: on a CPU it is measured.
        peak = total_peak_flops(jax.devices(), self._config.precision)
        self._screen.below = ""
        self.say(f"compiled {what} in {seconds:.1f} s")
        now = self._clock(), self._step
        self._speed = _Speed(tokens, flops / peak, self._last, phase=now, line=now)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave an evaluation or a save out of the rates, but not out of the ETA."""
        self.flush()
        start = self._clock()
        yield
        if self._speed:
            self._speed.paused += self._clock() - start

    def wants(self, step: int) -> bool:
        """Whether a step has a line, whatever else happens."""
        return self._due(step) or step == self._last

    def _due(self, step: int) -> bool:
        return step == 1 or step % self._config.log.every == 0

    def defer(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take the metrics of a step just dispatched; return those of the one before.

        Metrics are `Mean`s, scalars and texts by name, on device or not. What is
        returned are numbers and texts by name, with "step"; None the first time.
        """
        for leaf in jax.tree.leaves(metrics):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        before = self.flush()
        self._pending = step, metrics
        return before

    def flush(self) -> dict[str, Any] | None:
        """The metrics of the last step too, waiting for it; None if none wait.

        Adds them to the sums, and writes the line of the step if it is due.
        """
        if self._pending is None:
            return None
        (self._step, metrics), self._pending = self._pending, None
        host = jax.device_get(metrics)
        # Python floats: exact when added one after another, exact as JSON.
        sums = {
            name: Mean(float(value.total), float(value.weight))
            for name, value in host.items()
            if isinstance(value, Mean)
        }
        self._own = {
            name: value if isinstance(value, str) else np.asarray(value).item()
            for name, value in host.items()
            if name not in sums
        }
        for name, value in sums.items():
            # A step whose gradient was not finite may have no loss to add.
            if math.isfinite(value.total):
                self._sums[name] = add(self._sums.get(name, Mean(0.0, 0.0)), value)
        if self._due(self._step):
            self._write()
            self._sums = {}
            if self._speed:
                self._speed.line = self._clock(), self._step
                self._speed.paused = 0.0
        elif self._screen.stale():
            self._screen.show(*self._record())
        return {"step": self._step, **figures(sums), **self._own}

    def carry(self) -> dict[str, Any]:
        """What the next line still needs if the run goes on from here, as JSON."""
        self.flush()
        return {"sums": {name: list(each) for name, each in self._sums.items()}}

    def evaluation(
        self, result: Mapping[str, Any], declared: Sequence[Figure] = ()
    ) -> None:
        """Figures of an evaluation, as `eval_…` in the line of the newest step.

        `declared` tells their baselines.
        """
        self.flush()
        self._write({f"eval_{name}": each for name, each in result.items()})
        self._screen.evaluation(self._step, result, declared)

    def upload(self) -> None:
        """Copy the files of a `gs://` run there, whole; nothing for a local one."""
        if not self._remote:
            return
        for path in sorted(self._local.rglob("*")):
            if path.is_file():
                there = self._remote / str(path.relative_to(self._local))
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())

    def close(self) -> None:
        """Write what is pending and end the bar; called by `with`."""
        try:
            self.flush()
            if self._speed and self._step != self._written:
                self._write()
            self.upload()
        finally:
            self._screen.close()
            for file in self._files:
                file.close()
            if self._remote:
                shutil.rmtree(self._local, ignore_errors=True)

    def _write(self, more: Mapping[str, Any] | None = None) -> None:
        """Write a line of the sums so far, or add `more` to the line of the step."""
        record: dict[str, Any] = {"step": self._step}
        if self._step != self._written:
            record, seconds_left = self._record()
            self._screen.show(record, seconds_left, line=True)
        record |= more or {}
        self._written = self._step
        for file in list(self._files):
            try:
                file.write(record)
            except OSError as error:
                self._files.remove(file)
                file.close()
                self.say(f"warning: {file.path} is written no further: {error}")

    def _record(self) -> tuple[dict[str, Any], float]:
        """A record of the newest figures, and the seconds until the last step."""
        tokens = mfu = seconds = math.nan
        if self._speed:
            tokens, mfu, seconds = self._speed.now(self._clock(), self._step)
        sums = {**_UNKNOWN, **figures(self._sums), **self._own}
        rates = {"tokens_per_second": tokens, "mfu": mfu}
        return {"step": self._step, **sums, **rates}, seconds


@dataclass
class _Speed:
    """Speed since the last line, and since the step was compiled."""

    tokens: float  # of a step
    peak_seconds: float  # of a step, at the peak rate of all devices
    last: int  # step
    phase: tuple[float, int]  # when, and after which step, it was compiled
    line: tuple[float, int]  # when, and after which step, the newest line was written
    paused: float = 0.0  # seconds since that line that were spent on something else

    def now(self, now: float, step: int) -> tuple[float, float, float]:
        """Tokens a second, MFU, seconds until the last step."""
        since, first = self.phase
        seconds, made = now - since, step - first
        left = (self.last - step) * seconds / made if made else math.nan
        # One step alone says little: its time may have passed in the line before.
        if step - self.line[1] >= 2:
            seconds, made = now - self.line[0] - self.paused, step - self.line[1]
        rate = made / seconds if seconds > 0 else math.nan
        return rate * self.tokens, rate * self.peak_seconds, left
