"""Records by step in → metrics.jsonl and TensorBoard events out, one object a step.

Both files are written at once and raise OSError where that fails. Next: `log.py`
decides what a record holds, and goes on without a file that fails.
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
    """metrics.jsonl, without what a killed run wrote after its checkpoint at `start`.

    Lines of later steps and torn lines are cut when the file is opened.
    """

    def __init__(self, path: Path, start: int):
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start]
        if len(kept) < len(lines):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(kept))
            new.replace(path)
        self._record = json.loads(kept[-1]) if kept else {}
        self._offset = sum(map(len, kept[:-1]))  # of the newest line
        self._file = open(path, "ab")  # noqa: SIM115 closed by close()

    @property
    def step(self) -> int:
        """Step of the newest line; -1 if there is none."""
        return self._record.get("step", -1)

    @property
    def evaluated(self) -> int:
        """Step of the newest line if that has an evaluation, else -1."""
        return self.step if any(key.startswith("eval_") for key in self._record) else -1

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a line, or add to the newest line if that is of the same step."""
        if self.step == step:
            self._file.truncate(self._offset)
            self._record.update(record)
        else:
            self._offset = self._file.tell()
            self._record = dict(record)
        # JSON has neither NaN nor infinity.
        finite = {k: v if _finite(v) else None for k, v in self._record.items()}
        self._file.write(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written was reported before."""
        with suppress(OSError):
            self._file.close()


class TensorBoardEvents:
    """TensorBoard events, without `SummaryWriter`, whose thread can hang a run.

    It queues ten events and dies silently on a full disk; the eleventh blocks forever.
    """

    def __init__(self, path: Path, start: int):
        # tensorboardX imports torch if it is installed, which takes seconds.
        hidden = {"torch": None} if "torch" not in sys.modules else {}
        sys.modules.update(hidden)  # type: ignore[arg-type]
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
        begun = proto.SessionLog(status=proto.SessionLog.START)
        self._add(self._event(step=start + 1, session_log=begun))

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Write all numbers of a record, `eval_…` as a group of charts of its own."""
        event = self._event(step=step)
        for name, value in record.items():
            if name != "step" and not isinstance(value, str):
                ours = not name.startswith("eval_")
                tag = f"train/{name}" if ours else name.replace("_", "/", 1)
                event.summary.value.add(tag=tag, simple_value=float(value))
        self._add(event)

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written was reported before."""
        with suppress(OSError):
            self._file.close()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _step_of(line: bytes) -> float:
    """The step of a line; infinite if the line is torn."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
