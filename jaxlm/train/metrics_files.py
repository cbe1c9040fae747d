"""Records by step in → metrics.jsonl and TensorBoard events out, one object a step.

Both files are flushed after each record and raise OSError if that fails. Next: `log.py`
decides what a record holds, and goes on without a file that fails.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class _MetricsFile:
    path: Path
    _file: Any

    def close(self) -> None:
        """Close the file; what could not be written was reported before."""
        with suppress(OSError):
            self._file.close()


class MetricsLines(_MetricsFile):
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
        self.newest: dict[str, Any] = json.loads(kept[-1]) if kept else {"step": -1}
        self._offset = sum(map(len, kept[:-1]))  # of the newest line
        self._file = open(path, "ab")  # noqa: SIM115 closed by close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line, or add to the newest line if that is of the same step."""
        if record["step"] == self.newest["step"]:
            self._file.truncate(self._offset)
            self.newest |= record
        else:
            self._offset = self._file.tell()
            self.newest = dict(record)
        # JSON has neither NaN nor infinity.
        finite = {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in self.newest.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._file.flush()


class TensorBoardEvents(_MetricsFile):
    """TensorBoard events, without `SummaryWriter`, whose thread can hang a run.

    It queues ten events and dies silently on a full disk; the eleventh blocks forever.
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
        """Write all numbers of a record, `eval_…` as a group of charts of its own."""
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


def _step_of(line: bytes) -> float:
    """The step of a line; infinite if the line is torn."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
