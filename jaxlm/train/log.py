"""Metrics of each step, on device, in → metrics.jsonl, TensorBoard and the screen out.

    with Log(workdir, config) as log:
        log.begin(start, last)                       step s comes after s updates
        with log.compiling(phase, flops): …          rates count from its end
        host = log.defer(step, metrics)              this step in, the one before out
        log.evaluation(step, figures)                into the line of that step
        meta = {"log": log.carry()}                  to a checkpoint; back by `begin`

`defer` fetches only the step before the one just dispatched, so the devices never wait
for the host. A `Mean` is summed from line to line and divided when it is written; other
values are those of the line's own step. Lines are due at step 1 and at every multiple
of `log.every`, so a resumed run writes what an uninterrupted one would have; evaluated
steps and the last one get lines as well, which start no new sums. Only process 0 writes
and prints; every process gets the fetched figures.
"""

from __future__ import annotations

import io
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxlm.config import Phase, RunConfig
from jaxlm.devices import total_peak_flops
from jaxlm.metrics import Mean, add, figures
from jaxlm.train.metrics_files import MetricsLines, TensorBoardEvents, cut
from jaxlm.train.screen import Screen

METRICS = "metrics.jsonl"


class Log:
    """What a run writes while it goes.

    Args:
        workdir: the run directory; for `gs://` see `upload`.
        config: of the run.
        stream: where to print; standard output by default.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        workdir: str | Path,
        config: RunConfig,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._clock = config, clock
        self._leads = jax.process_index() == 0
        self._screen = Screen(stream)
        remote = self._leads and str(workdir).startswith("gs://")
        self._remote = epath.Path(workdir) if remote else None
        self._local = Path(tempfile.mkdtemp("jaxlm") if remote else workdir)
        self._writers: list[MetricsLines | TensorBoardEvents] = []
        self._rates: _Rates | None = None
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._step = self._last = 0  # newest step with figures; of this invocation
        self._written = -1  # newest step with a line
        self._evaluated = -1  # newest step with an evaluation
        self._sums: dict[str, Mean] = {}
        self._own: dict[str, Any] = {}  # what the newest step said that is no Mean

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise  # else what ended the run says more than that its log broke too

    def begin(
        self, start: int, last: int, carry: Mapping[str, Any] | None = None
    ) -> None:
        """Open the files, without what a killed run wrote after its checkpoint.

        Args:
            start: updates made before; later lines are cut.
            last: updates at the end of this invocation, for the bar and the ETA.
            carry: what `carry()` gave when the checkpoint was saved.
        """
        self._step, self._last = start, last
        sums = (carry or {}).get("sums", {})
        self._sums = {name: Mean(*each) for name, each in sums.items()}
        if not self._leads:
            return
        self._screen.begin(start, last)
        self._local.mkdir(parents=True, exist_ok=True)
        path = self._local / METRICS
        if self._remote and (self._remote / METRICS).exists():
            path.write_bytes((self._remote / METRICS).read_bytes())
        cut(path, start)
        lines = MetricsLines(path)
        self._written, self._evaluated = lines.step, lines.evaluated
        self._writers = [lines]
        if self._config.log.tensorboard:
            try:
                self._writers.append(
                    TensorBoardEvents(self._local / "tensorboard", start)
                )
            except (OSError, ImportError) as error:
                self.say(f"warning: no TensorBoard events: {error}")

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one; process 0 only."""
        if self._leads:
            self._screen.say(text)

    @contextmanager
    def compiling(
        self, phase: Phase, flops: int | float = math.nan, tokens: float = 0.0
    ) -> Iterator[None]:
        """Time a compilation, say so, and count rates from its end.

        Args:
            phase: what is compiled for.
            flops: of the model in one step, for MFU; the mean where steps differ.
            tokens: in one step, the mean where steps differ; 0: as the phase's shape.
        """
        self.flush()
        what = f"the step for {phase.batch} × {phase.length} tokens"
        self._screen.wait_for(f"compiling {what}")
        start = self._clock()
        yield
        now = self._clock()
        # Here, while the devices are idle: on a CPU it is measured.
        peak = total_peak_flops(jax.devices(), self._config.precision)
        self._screen.wait_for("")
        self.say(f"compiled {what} in {now - start:.1f} s")
        self._rates = _Rates(
            tokens=tokens or float(phase.batch * phase.length),
            flops=float(flops),
            peak=peak,
            run=(self._clock(), self._step),
            line=(self._clock(), self._step),
        )

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what happens inside (an evaluation, a save) out of the rates.

        The ETA keeps it: it will come again.
        """
        self.flush()
        start = self._clock()
        yield
        if self._rates:
            self._rates.paused += self._clock() - start

    def wants(self, step: int) -> bool:
        """Whether a step has a line of its own, whatever else happens."""
        return self._due(step) or step == self._last

    def _due(self, step: int) -> bool:
        return step == 1 or step % self._config.log.every == 0

    def defer(
        self, step: int, metrics: Mapping[str, Any], batch_sha256: str = ""
    ) -> dict[str, Any] | None:
        """Take the metrics of a step just dispatched; return those of the one before.

        Args:
            step: updates made, with this one.
            metrics: `Mean`s and scalars by name, on device or not.
            batch_sha256: of the step's batch, where it was asked for.

        Returns:
            Name → number of that step alone, with its "step"; None the first time.
        """
        deferred = dict(metrics)
        for leaf in jax.tree.leaves(deferred):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        if batch_sha256:
            deferred["batch_sha256"] = batch_sha256
        before, self._pending = self._pending, (step, deferred)
        return self._take(before)

    def flush(self) -> dict[str, Any] | None:
        """The metrics of the last step too, waiting for it; None where none wait."""
        before, self._pending = self._pending, None
        return self._take(before)

    def carry(self) -> dict[str, Any]:
        """What the next line still needs if the run goes on from here, as JSON."""
        self.flush()
        return {"sums": {name: list(each) for name, each in self._sums.items()}}

    @property
    def evaluated(self) -> bool:
        """Whether the line of the newest step says an evaluation; process 0 knows."""
        return self._evaluated == self._step

    def evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Figures of an evaluation, as `eval_…` in the line of its step."""
        self.flush()
        self._evaluated = step
        self._write(step, {f"eval_{name}": each for name, each in result.items()})
        if self._leads:
            self._screen.evaluation(step, result)

    def upload(self) -> None:
        """Copy the files of a `gs://` run there, whole; nothing where it is local."""
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
            if self._rates and self._step != self._written:
                self._write(self._step, {})
            self.upload()
        finally:
            self._screen.close()
            for writer in self._writers:
                writer.close()
            if self._remote:
                shutil.rmtree(self._local, ignore_errors=True)

    def _take(self, taken: tuple[int, dict[str, Any]] | None) -> dict[str, Any] | None:
        if taken is None:
            return None
        self._step, metrics = taken
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
            self._write(self._step, {})
            self._sums = {}
            if self._rates:
                self._rates.line = (self._clock(), self._step)
                self._rates.paused = 0.0
        elif self._leads and self._screen.stale():
            now = self._clock()
            self._screen.show(self._record(now), self._seconds_left(now))
        return {"step": self._step, **figures(sums), **self._own}

    def _write(self, step: int, more: Mapping[str, Any]) -> None:
        """A line of the sums so far, or `more` into the line that the step has."""
        record = dict(more)
        if step != self._written:
            now = self._clock()
            record = {**self._record(now), **record}
            if self._leads:
                self._screen.show(record, self._seconds_left(now), line=True)
        self._written = step
        for writer in list(self._writers):
            try:
                writer.write(step, record)
            except OSError as error:
                self._writers.remove(writer)
                writer.close()
                self.say(f"warning: {writer.path} is written no further: {error}")

    def _record(self, now: float) -> dict[str, Any]:
        tokens = mfu = math.nan
        if self._rates:
            speed = self._rates.steps_per_second(now, self._step)
            tokens = speed * self._rates.tokens
            mfu = speed * self._rates.flops / self._rates.peak
        return {
            "step": self._step,
            "loss": math.nan,
            "learning_rate": math.nan,
            "grad_norm": math.nan,
            "skipped": 0,
            **figures(self._sums),
            **self._own,
            "tokens_per_second": tokens,
            "mfu": mfu,
        }

    def _seconds_left(self, now: float) -> float:
        if not self._rates:
            return math.nan
        return self._rates.seconds_left(now, self._step, self._last)


@dataclass
class _Rates:
    """Speed since the last line, and of the run since its step was compiled."""

    tokens: float  # of a step
    flops: float  # of a step
    peak: float  # FLOP/s of all devices at most
    run: tuple[float, int]  # when and at which step the run's compiled part began
    line: tuple[float, int]  # the same of the line that is being summed up
    paused: float = 0.0  # seconds of the line that were spent on something else

    def steps_per_second(self, now: float, step: int) -> float:
        # One step alone says little: its time may have passed in the line before.
        short = step - self.line[1] < 2
        since, first = self.run if short else self.line
        seconds = now - since - (0.0 if short else self.paused)
        return (step - first) / seconds if seconds > 0 else math.nan

    def seconds_left(self, now: float, step: int, last: int) -> float:
        made = step - self.run[1]
        return (last - step) * (now - self.run[0]) / made if made else math.nan
