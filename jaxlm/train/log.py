"""Metrics of each step, on the device → metrics.jsonl, TensorBoard and the screen.

    with Log(workdir, config, start, last) as log:
        with log.compiling("the step", …): …
        host = log.defer(step, metrics)              takes this step, gives the previous
        log.samples(records)                         the newest step's, to samples.jsonl
        log.evaluation(figures)                      joins the line of the newest step
        meta = {"log": log.carry()}                  to a checkpoint, for the next Log
        log.record_times()                           before each checkpoint

`defer` fetches only the metrics of the previous step, so the devices never wait for the
host. A `Mean` is summed over the steps since the last line and divided when it is
written; other values are those of the line's own step. Lines are due at step 1 and at
multiples of `log.every`, so a resumed run writes the lines of an uninterrupted run.
Evaluated steps and the last step get lines too, which do not reset the sums. Only
process 0 writes and prints; every process gets the fetched figures.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.config import RunConfig
from jaxlm.devices import peak_flops
from jaxlm.files import copy_tree, is_remote, place, write_file
from jaxlm.metrics import Figure, Mean, add, figures
from jaxlm.train.screen import Screen
from jaxlm.train.times import Speed, Times

# Fields of every line, known or not.
_UNKNOWN = dict.fromkeys(("loss", "learning_rate", "grad_norm"), math.nan)
_UNKNOWN |= {"skipped": 0}
_LINES = "metrics.jsonl", "times.jsonl", "samples.jsonl"


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
        self._config, self._clock = config, clock
        self._start = start
        self.step, self.last = start, last  # newest step with figures; last of all
        self.times = Times(clock=clock)
        self._written = -1  # newest step with a line
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        sums = (carry or {}).get("sums", {})
        self._sums = {name: Mean(*each) for name, each in sums.items()}
        self._own: dict[str, Any] = {}  # what the newest step has that is no Mean
        self._speed: Speed | None = None
        self._files: list[MetricsLines | TensorBoardEvents] = []
        self._records: list[MetricsLines] = []  # the times of saved steps
        self._samples: list[MetricsLines] = []  # what the model says to prompts
        self._remote: Any = None  # the workdir on gs://, written to a local one first
        self.evaluated = False  # whether the line of the first step has an evaluation
        first = jax.process_index() == 0
        self._screen = Screen((stream or sys.stdout) if first else None, start, last)
        self.say = self._screen.say  # a line, above the bar if there is one
        if not first:
            return
        self._local = Path(workdir)
        if is_remote(workdir):
            self._remote = place(workdir)
            self._local = Path(tempfile.mkdtemp("jaxlm"))
            for name in _LINES:
                if (there := self._remote / name).exists():
                    (self._local / name).write_bytes(there.read_bytes())
        records = MetricsLines(self._local / "times.jsonl", start)
        self._records.append(records)
        self.times = Times(records.newest, clock)
        if "time" not in records.newest:
            self._append(self._records, {"step": start, **self.times.record()})
        lines = MetricsLines(self._local / "metrics.jsonl", start)
        self._files.append(lines)
        if lines.torn:
            self.say(f"{lines.path} had {lines.torn} torn lines, which are cut")
        self._written = lines.newest["step"]
        self.evaluated = self._written == start and any(
            "eval_" in name for name in lines.newest
        )
        if (self._local / "samples.jsonl").exists():
            self._samples.append(MetricsLines(self._local / "samples.jsonl", start))
        if config.log.tensorboard:
            path = self._local / "tensorboard"
            try:
                self._files.append(TensorBoardEvents(path, start))
            except (OSError, ImportError) as error:
                self.say(f"warning: no TensorBoard events: {error}")

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
            else:
                text = isinstance(value, str)
                self._own[name] = value if text else np.asarray(value).item()
        for name, value in sums.items():
            # A step whose gradient was not finite may have no loss to add.
            if math.isfinite(value.total):
                self._sums[name] = add(self._sums.get(name, Mean(0.0, 0.0)), value)
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
        if not self._samples and jax.process_index() == 0:
            path = self._local / "samples.jsonl"
            self._samples.append(MetricsLines(path, self._start))
        self._append(self._samples, {"step": self.step, "samples": records})

    def record_times(self, *, ended: bool = False) -> None:
        """Record the times of the run up to a step that is saved, and upload all."""
        if self.step > self._start:
            record = {"step": self.step, **self.times.record(ended=ended)}
            self._append(self._records, record)
        self.upload()

    def upload(self) -> None:
        """Copy all files of a `gs://` run there; does nothing for a local run."""
        if self._remote:
            try:
                copy_tree(self._local, self._remote)
            except Exception as error:  # the next upload has these lines, too
                self.say(f"warning: metrics are not uploaded: {error}")

    def close(self) -> None:
        """Write pending metrics and end the progress bar; called by `with`."""
        try:
            self.flush()
            if self._speed and self.step != self._written:
                self._write()
            self.upload()
        finally:
            self._screen.close()
            for file in [*self._files, *self._records, *self._samples]:
                file.close()
            if self._remote:
                shutil.rmtree(self._local, ignore_errors=True)

    def _write(self, more: Mapping[str, Any] | None = None) -> None:
        """Write a line with the sums so far, or add `more` to the line of the step."""
        record: dict[str, Any] = {"step": self.step}
        if self.step != self._written:
            record, seconds_left = self._record()
            self._screen.show(record, seconds_left, line=True)
        record |= more or {}
        self._written = self.step
        self._append(self._files, record)

    def _append(self, files: list[Any], record: Mapping[str, Any]) -> None:
        """Write a record to files; those that cannot be written leave the list."""
        for file in list(files):
            try:
                file.write(record)
            except OSError as error:
                files.remove(file)
                file.close()
                self.say(f"warning: {file.path} is written no further: {error}")

    def _record(self) -> tuple[dict[str, Any], float]:
        """(a record of the newest figures, the seconds until the last step)."""
        rate, mfu, seconds_left = self.speed()
        sums = {**_UNKNOWN, **figures(self._sums), **self._own}
        rates = {"tokens_per_second": rate, "mfu": mfu}
        read = (
            {} if self._config.finetunes else {"tokens": self._config.read(self.step)}
        )
        record = {"step": self.step, **sums, **read, **rates, **self.times.fields()}
        return record, seconds_left

    def speed(self) -> tuple[float, float, float]:
        """(tokens per second, MFU, seconds until the last step)."""
        if not self._speed:
            return (math.nan,) * 3
        return self._speed.now(self._clock(), self.step, self.last)


class _MetricsFile:
    """A file that takes one record per step; OSError if it cannot write."""

    path: Path
    _file: Any

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was reported before
            self._file.close()


class MetricsLines(_MetricsFile):
    """The file metrics.jsonl.

    Opening it removes torn lines, and lines that a killed run wrote after `start`.
    """

    def __init__(self, path: Path, start: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start]
        self.torn = sum(math.isinf(_step_of(line)) for line in lines)
        if len(kept) < len(lines):
            write_file(path, *kept)
        self.newest: dict[str, Any] = json.loads(kept[-1]) if kept else {"step": -1}
        self._offset = sum(map(len, kept[:-1]))  # of the newest line
        self._file = open(path, "ab")  # noqa: SIM115 closed by close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line, or add to the newest line if it is of the same step."""
        if record["step"] == self.newest["step"]:
            self._file.truncate(self._offset)
            record = self.newest | dict(record)
        else:
            self._offset = self._file.tell()
        # JSON has neither NaN nor infinity.
        self.newest = {
            name: None if isinstance(each, float) and not math.isfinite(each) else each
            for name, each in record.items()
        }
        self._file.write(json.dumps(self.newest, allow_nan=False).encode() + b"\n")
        self._file.flush()


class TensorBoardEvents(_MetricsFile):
    """TensorBoard events, without `SummaryWriter`, which hangs a run on a full disk.

    Its thread dies silently, its queue of ten events fills, and the next event blocks.
    """

    def __init__(self, path: Path, start: int):
        # tensorboardX imports torch if it is installed, which takes seconds.
        hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
        sys.modules.update(hidden)
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        finally:
            for name in hidden:
                del sys.modules[name]

        proto: Any = event_pb2  # its classes exist at run time only
        self.path, self._event = path, proto.Event
        path.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(path / "events"))
        # Tells TensorBoard to forget what an earlier invocation wrote after `start`.
        self._add(step=start + 1, session_log={"status": "START"})

    def write(self, record: Mapping[str, Any]) -> None:
        """Write all numbers of a record; those of `eval_…` get their own charts."""
        values = []
        for name, value in record.items():
            if name != "step" and not isinstance(value, str):
                ours = not name.startswith("eval_")
                tag = f"train/{name}" if ours else name.replace("_", "/", 1)
                values.append({"tag": tag, "simple_value": float(value)})
        self._add(step=record["step"], summary={"value": values})

    def _add(self, **event: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **event))
        self._file.flush()


def read_metrics(path: Any) -> tuple[list[dict[str, Any]], int]:
    """The records in `metrics.jsonl`, and the number of torn lines."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    records = [record for line in lines if (record := _record_of(line))]
    return records, len(lines) - len(records)


def _record_of(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None if the line is torn."""
    try:
        record: Any = json.loads(line) if line.endswith(b"\n") else None
        return record if math.isfinite(record["step"]) else None
    except (ValueError, KeyError, TypeError):
        return None


def _step_of(line: bytes) -> float:
    """The step of a line; infinite if the line is torn."""
    record = _record_of(line)
    return math.inf if record is None else float(record["step"])
