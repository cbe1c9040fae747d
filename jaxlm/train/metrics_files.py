"""Records by step in → metrics.jsonl and TensorBoard events out, one object a step.

    cut(path, step)             a killed run's lines after its checkpoint are dropped
    MetricsLines(path).write(step, record)
    TensorBoardEvents(directory, start).write(step, record)

Both write at once, and raise OSError where they cannot. Next: `log.py` decides what a
record holds and goes on without a writer that fails.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class MetricsLines:
    """metrics.jsonl: one object a step, also when its figures come in two parts."""

    def __init__(self, path: Path):
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        newest = data.splitlines(keepends=True)[-1:]
        self._record = json.loads(newest[0]) if newest else {}
        self._offset = len(data) - sum(map(len, newest))
        self._file = open(path, "ab")  # noqa: SIM115 closed by close()

    @property
    def step(self) -> int:
        """Of the newest line; -1 where there is none."""
        return self._record.get("step", -1)

    @property
    def evaluated(self) -> int:
        """The same where that line has an evaluation; else -1."""
        return self.step if any(key.startswith("eval_") for key in self._record) else -1

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a line, or add to the newest where it is of this step."""
        if self._record.get("step") == step:
            self._file.truncate(self._offset)
            self._record.update(record)
        else:
            self._offset = self._file.tell()
            self._record = dict(record)
        # JSON has no NaN and no infinity.
        finite = {k: v if _finite(v) else None for k, v in self._record.items()}
        self._file.write(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written was said before."""
        with suppress(OSError):
            self._file.close()


class TensorBoardEvents:
    """TensorBoard events, written at once: `SummaryWriter`'s thread can hang a run.

    It queues ten events and dies silently on a full disk; the eleventh blocks for ever.
    """

    def __init__(self, path: Path, start: int):
        # tensorboardX imports torch where it is installed, which takes seconds and is
        # of no use here.
        hidden = "torch" not in sys.modules
        if hidden:
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
        finally:
            if hidden:
                del sys.modules["torch"]

        proto: Any = event_pb2  # its classes exist at run time only
        self.path, self._event = path, proto.Event
        path.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(path / "events"))
        # Tells TensorBoard to forget what an earlier invocation wrote after `start`.
        begun = proto.SessionLog(status=proto.SessionLog.START)
        self._add(self._event(step=start + 1, session_log=begun))

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """All numbers of a record at once."""
        event = self._event(step=step)
        for name, value in record.items():
            if name != "step" and not isinstance(value, str):
                event.summary.value.add(tag=_tag(name), simple_value=float(value))
        self._add(event)

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written was said before."""
        with suppress(OSError):
            self._file.close()


def _tag(name: str) -> str:
    """`eval_mlm_loss` → `eval/mlm_loss`, others to `train/…`: groups of charts."""
    return name.replace("_", "/", 1) if name.startswith("eval_") else f"train/{name}"


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


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
