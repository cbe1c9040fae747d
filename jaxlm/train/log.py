"""Metrics of each step, on device, in → metrics.jsonl, TensorBoard, the screen out.

    with Log(workdir, run.log, steps=run.steps, start=step, carry=…) as log:
        log.compiled(seconds, flops=flops_of_a_step, tokens=tokens_of_a_step)
        host = log.defer(step, metrics)    dispatched step in, the one before out
        log.write_eval(step, figures)      beside the training figures of that step
        meta = {"log": log.carry()}        to a checkpoint; back through Log(carry=…)

`step` counts updates that were made: the first is 1, and a checkpoint of step s comes
after the line of step s. `defer` fetches only the step before the one just dispatched,
so the devices never wait for the host. A `Mean` is summed from line to line and divided
when it is written; other values are those of the line's own step. Only process 0 writes
and prints; every process gets the fetched figures back.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax
from etils import epath

from jaxlm.config import LogConfig
from jaxlm.devices import mfu
from jaxlm.metrics import Mean, divide

METRICS = "metrics.jsonl"


def cut(path: Path, step: int) -> int:
    """Drop the lines after `step`, and any torn one; returns how many went."""
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(kept))
        new.replace(path)
    return len(lines) - len(kept)


def _step_of(line: bytes) -> float:
    """The step of a line; infinite where the line is torn."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class Log:
    """What a run writes while it goes.

    Args:
        workdir: the run directory; for `gs://` see `upload`.
        config: how often, and whether for TensorBoard.
        steps: updates at the end of this invocation, for the bar and the ETA.
        start: updates made before; later lines of `metrics.jsonl` are cut.
        precision: of the matrix products, for MFU.
        carry: of the checkpoint that was restored, see `carry()`.
        stream: where to print; standard output by default.
        clock: seconds; another one in tests.
    """

    def __init__(
        self,
        workdir: str | Path,
        config: LogConfig,
        *,
        steps: int,
        start: int = 0,
        precision: str = "float32",
        carry: Mapping[str, Any] | None = None,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.config, self.steps, self.step = config, steps, start
        self._precision, self._clock = precision, clock
        self._leads = jax.process_index() == 0
        self._stream = stream or sys.stdout
        carry = carry or {}
        self._sums = {k: Mean(*v) for k, v in carry.get("sums", {}).items()}
        self._skipped = carry.get("skipped", 0)
        self.skipped_in_a_row = carry.get("skipped_in_a_row", 0)
        self._own: dict[str, Any] = {}  # what the newest step said that is no Mean
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._open(str(workdir), start)

    def _open(self, workdir: str, start: int) -> None:
        self._last: tuple[int, int, dict[str, Any]] | None = None
        self._remote = epath.Path(workdir) if workdir.startswith("gs://") else None
        if not self._leads:
            return
        self._local = Path(tempfile.mkdtemp("jaxlm") if self._remote else workdir)
        self._local.mkdir(parents=True, exist_ok=True)
        if self._remote and (self._remote / METRICS).exists():
            (self._local / METRICS).write_bytes((self._remote / METRICS).read_bytes())
        cut(self._local / METRICS, start)
        self._file = open(self._local / METRICS, "ab")  # noqa: SIM115 closed in close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one; process 0 only."""
        if self._leads:
            print(text, file=self._stream, flush=True)

    def compiled(self, seconds: float, *, flops: float, tokens: float) -> None:
        """A step is compiled: rates count from here.

        Args:
            seconds: what compiling took; no part of any rate.
            flops: of the model in one step, for MFU.
            tokens: of one step.
        """
        self.flush()
        self.say(f"compiled in {seconds:.1f} s")
        self._flops, self._tokens = flops, tokens
        now = self._clock()
        self._line_from, self._line_step = now, self.step
        self._run_from, self._run_step = now, self.step
        self._paused = 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what happens inside (an evaluation, a save) out of the rates.

        The ETA keeps it: it will come again.
        """
        start = self._clock()
        yield
        self._paused += self._clock() - start

    def defer(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take the metrics of a step just dispatched; return those of the one before.

        Returns:
            Name → number of that step alone, with its "step"; None the first time.
        """
        for leaf in jax.tree.leaves(dict(metrics)):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        before, self._pending = self._pending, (step, metrics)
        return self._take(before)

    def flush(self) -> dict[str, Any] | None:
        """The metrics of the last step too, waiting for it."""
        before, self._pending = self._pending, None
        return self._take(before)

    def carry(self) -> dict[str, Any]:
        """What the next line still needs if the run goes on from here, as JSON."""
        self.flush()
        sums = {k: [float(v.total), float(v.weight)] for k, v in self._sums.items()}
        return {
            "sums": sums,
            "skipped": self._skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def write_eval(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of an evaluation, as `eval_…` in the line of its step."""
        self.flush()
        named = {f"eval_{name}": value for name, value in figures.items()}
        if self._last is None or self._last[0] != step:
            self._write_line(step)
        self._add_to_line(named)
        shown = "  ".join(f"{k} {_short(k, v)}" for k, v in figures.items())
        self.say(f"step {step}  evaluation  {shown}")

    def upload(self) -> None:
        """Copy the files of a `gs://` run there, whole; nothing where it is local."""
        if self._leads and self._remote is not None:
            self._file.flush()
            for path in self._local.rglob("*"):
                if path.is_file():
                    there = self._remote / str(path.relative_to(self._local))
                    there.parent.mkdir(parents=True, exist_ok=True)
                    there.write_bytes(path.read_bytes())

    def close(self) -> None:
        """Write what is pending; called by `with`."""
        self.flush()
        if self._leads:
            self._file.close()
            if self._remote is not None:
                self.upload()
                shutil.rmtree(self._local)

    def _take(self, taken: tuple[int, Mapping[str, Any]] | None) -> Any:
        if taken is None:
            return None
        step, metrics = taken
        host = jax.device_get(dict(metrics))
        self.step = step
        skipped = bool(host.get("skipped", False))
        self._skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        self._own = {k: _plain(v) for k, v in host.items() if not isinstance(v, Mean)}
        for name, value in host.items():
            # A skipped step has no finite loss to add.
            if isinstance(value, Mean) and not (
                skipped and not math.isfinite(float(value.total))
            ):
                total, weight = self._sums.get(name, Mean(0.0, 0.0))
                self._sums[name] = Mean(
                    total + float(value.total), weight + float(value.weight)
                )
        if step % self.config.every == 0 or step in (1, self.steps):
            self._write_line(step)
        return {"step": step} | {k: _plain(v) for k, v in host.items()}

    def _write_line(self, step: int) -> None:
        sums, self._sums = self._sums, {}
        now = self._clock()
        spent, made = now - self._line_from - self._paused, step - self._line_step
        rate = made / spent if made and spent > 0 else math.nan
        self._line_from, self._line_step, self._paused = now, step, 0.0
        record = {
            "step": step,
            "loss": None,
            "learning_rate": None,
            "grad_norm": None,
            **self._own,
            **{k: divide(v) for k, v in sums.items()},
            "skipped": self._skipped,
            "tokens_per_second": rate * self._tokens,
            "mfu": mfu(rate * self._flops, jax.devices(), self._precision),
        }
        if self._leads:
            self._last = (step, self._file.tell(), {})
            self._add_to_line(record)
            self.say(self._plain_line(record, now))

    def _add_to_line(self, more: Mapping[str, Any]) -> None:
        """Write the newest line again with more in it."""
        if not self._leads or self._last is None:
            return
        _, offset, record = self._last
        record.update(more)
        self._file.truncate(offset)
        self._file.write(
            json.dumps(_jsonable(record), allow_nan=False).encode() + b"\n"
        )
        self._file.flush()

    def _plain_line(self, record: Mapping[str, Any], now: float) -> str:
        names = ["loss", *(n for n in record if n.endswith("accuracy"))]
        parts = [f"step {record['step']}/{self.steps}"]
        parts += [f"{name} {_short(name, record[name])}" for name in names]
        parts += [
            f"{_short('tokens', record['tokens_per_second'])} tokens/s",
            f"MFU {_short('mfu', record['mfu'])}",
            f"ETA {self._eta(record['step'], now)}",
        ]
        return "  ".join(parts)

    def _eta(self, step: int, now: float) -> str:
        made = step - self._run_step
        if made <= 0:
            return "?"
        left = round((self.steps - step) * (now - self._run_from) / made)
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


def _plain(value: Any) -> Any:
    """A number of a fetched metric; text as it is."""
    return value if isinstance(value, str) else divide(value)


def _jsonable(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in record.items()
    }


def _short(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "?"
    if name == "mfu" or name.endswith("accuracy"):
        return f"{value:.1%}"
    if name == "tokens":
        return f"{value:,.0f}"
    return f"{value:.4g}"
