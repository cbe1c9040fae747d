"""The files of a run's log: metrics.jsonl, times.jsonl, samples.jsonl, TensorBoard.

Each file may fail: it is then given up with a warning, and training goes on. For a run
on `gs://`, all are written to a local directory and uploaded whole.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from jaxlm.files import copy_tree, is_remote, place, write_file

_NAMES = "metrics", "times", "samples"


class LogFiles:
    """The files of a run that goes on from step `start`; only the first host has any.

    `say` prints a line.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        start: int,
        say: Callable[[str], None],
        *,
        tensorboard: bool,
    ):
        self._say, self._local = say, Path(workdir)
        self._remote = place(workdir) if is_remote(workdir) else None
        self._files: dict[str, list[Any]] = {name: [] for name in _NAMES}
        if jax.process_index():
            self._remote = None
            return
        if self._remote:
            self._local = Path(tempfile.mkdtemp("jaxlm"))
        for name, files in self._files.items():
            path = self._local / f"{name}.jsonl"
            if self._remote and (there := self._remote / path.name).exists():
                path.write_bytes(there.read_bytes())
            files.append(JsonLines(path, start))
        if torn := self._files["metrics"][0].torn:
            say(f"{self._local / 'metrics.jsonl'} had {torn} torn lines, which are cut")
        if tensorboard:
            try:
                events = TensorBoardEvents(self._local / "tensorboard", start)
                self._files["metrics"].append(events)
            except (OSError, ImportError) as error:
                say(f"warning: no TensorBoard events: {error}")

    def newest(self, name: str) -> dict[str, Any]:
        """The newest record of a file; {} if it has none."""
        return self._files[name][0].newest if self._files[name] else {}

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Add a record, one for each step; `metrics` go to TensorBoard, too."""
        for file in list(self._files[name]):
            try:
                file.write(record)
            except OSError as error:
                self._files[name].remove(file)
                self._say(f"warning: {file.path} is written no further: {error}")

    def upload(self) -> None:
        """Copy all files of a `gs://` run there; does nothing for a local run."""
        if self._remote:
            try:
                copy_tree(self._local, self._remote)
            except Exception as error:  # the next upload has these lines, too
                self._say(f"warning: metrics are not uploaded: {error}")

    def close(self) -> None:
        """Nothing is written after this."""
        for file in self._files["metrics"][1:]:
            file.close()
        if self._remote:
            shutil.rmtree(self._local, ignore_errors=True)


class JsonLines:
    """A file with a JSON object for each step.

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
        self.newest: dict[str, Any] = json.loads(kept[-1]) if kept else {}
        self._offset = sum(map(len, kept[:-1]))  # of the newest line

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line, or add to the newest line if it is of the same step."""
        with open(self.path, "ab") as file:
            if record["step"] == self.newest.get("step"):
                file.truncate(self._offset)
                record = self.newest | dict(record)
            self._offset = file.seek(0, os.SEEK_END)
            # JSON has neither NaN nor infinity.
            self.newest = {
                k: None if isinstance(each, float) and not math.isfinite(each) else each
                for k, each in record.items()
            }
            file.write(json.dumps(self.newest, allow_nan=False).encode() + b"\n")


class TensorBoardEvents:
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

    def close(self) -> None:
        """Close the file; what it could not write was reported before."""
        with suppress(OSError):
            self._file.close()

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
