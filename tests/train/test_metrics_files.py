"""metrics.jsonl, TensorBoard events, a bucket: each may fail, training goes on."""

import io
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from logs import config, lines, metrics, opened

from jaxlm.files import place
from jaxlm.train.log import Log
from jaxlm.train.log_files import JsonLines, read_metrics


def test_opening_cuts_later_and_torn_lines_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "loss": 3}\n{"step": 5}\n'
    for written, start, kept in (
        (whole, 5, whole),
        (whole + b'{"step": 6}\nnot json\n{"step": 4, "lo', 5, whole),
        (whole, 4, whole[:23]),
        (whole, 0, b""),
    ):
        path.write_bytes(written)
        JsonLines(path, start)
        assert path.read_bytes() == kept
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]


# -- TensorBoard -----------------------------------------------------------------


def events(workdir: Path):
    """The events of a directory, by the TFRecord format's own description."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]


def test_tensorboard_gets_what_the_lines_have(tmp_path):
    log = Log(tmp_path, config(tensorboard=True), 3, 40, stream=io.StringIO())
    for step in range(4, 9):
        log.defer(step, metrics(step) | {"batch_sha256": "ab"})
    log.evaluation({"mlm_loss": 2.5})
    log.close()
    first, start, *rest = events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert start.step == 4 and start.session_log.status == 1  # hides what came later
    values = {(e.step, v.tag): v.simple_value for e in rest for v in e.summary.value}
    for line in lines(tmp_path):
        for name in ("loss", "grad_norm", "mlm_accuracy"):
            written = values[line["step"], f"train/{name}"]
            np.testing.assert_allclose(written, line[name], rtol=1e-6)
    assert values[8, "eval/mlm_loss"] == 2.5
    assert (8, "train/step") not in values and (8, "train/batch_sha256") not in values


def test_training_goes_on_without_tensorboard_and_says_so_once(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where a directory should be")
    stream = io.StringIO()
    with Log(tmp_path, config(tensorboard=True), 0, 8, stream=stream) as log:
        for step in range(1, 9):
            log.defer(step, metrics(step))
    assert len(lines(tmp_path)) == 3
    said = stream.getvalue().splitlines()
    assert said[0].startswith("warning: no TensorBoard events: ")
    assert sum("warning" in line for line in said) == 1


def test_training_goes_on_when_writing_fails_midway(tmp_path, monkeypatch):
    stream = io.StringIO()
    with opened(tmp_path, stream=stream) as log:
        log.defer(1, metrics(1))
        log.flush()

        def full(self, record):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(JsonLines, "write", full)
        for step in range(2, 9):
            log.defer(step, metrics(step))
        assert log.flush()["step"] == 8
    warnings = [line for line in stream.getvalue().splitlines() if "warning" in line]
    (warning,) = warnings
    assert f"{tmp_path}/metrics.jsonl is written no further" in warning
    assert len(lines(tmp_path)) == 1


# -- gs:// -----------------------------------------------------------------------


@pytest.mark.bucket
def test_a_bucket_gets_the_files_whole_and_gives_them_back(
    bucket, tmp_path, monkeypatch
):
    where, local = place(f"{bucket}/run"), tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    log = opened(str(where))
    for step in range(1, 9):
        log.defer(step, metrics(step))
    assert not where.exists()
    log.samples([{"prompt": "a", "text": "b"}])
    log.carry()
    log.record_times()
    assert [line["step"] for line in lines(where)] == [1, 4, 8]
    assert list(local.rglob("metrics.jsonl"))
    log.close()
    assert not list(local.iterdir())
    with opened(str(where), start=4) as log:  # killed after the save at 4
        for step in range(5, 13):
            log.defer(step, metrics(step))
        log.samples([{"prompt": "a", "text": "c"}])
    assert [line["step"] for line in lines(where)] == [1, 4, 8, 12]
    said, torn = read_metrics(where / "samples.jsonl")
    assert [line["step"] for line in said] == [12] and not torn  # that of 8 is cut
