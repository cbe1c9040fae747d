"""Paths on `gs://` beside local ones: `files.place`, and what it says in one line."""

import sys
from pathlib import Path

import pytest

from jaxlm import files
from jaxlm.types import UserError


@pytest.mark.parametrize("path", ["gs://b/x", Path("gs://b/x")])
def test_a_path_on_a_bucket_is_remote(path):
    assert files.is_remote(path)
    assert not files.is_remote(str(path).removeprefix("gs:"))
    assert not files.is_remote("./gs:/b/x")


def test_without_gcsfs_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r'gs://b0 .* pip install "jaxlm\[gcs\]"$'):
        files.place("gs://b0/run")


@pytest.mark.bucket
def test_a_place_is_written_read_and_listed(bucket, tmp_path):
    for root in (bucket, Path(bucket), tmp_path):
        place = files.place(root)
        assert not place.exists() if files.is_remote(root) else place.exists()
        (place / "a" / "b.txt").parent.mkdir(parents=True, exist_ok=True)
        (place / "a" / "b.txt").write_text("text")
        assert [each.name for each in (place / "a").iterdir()] == ["b.txt"]
        assert (place / "a/b.txt").read_bytes() == b"text"
        (place / "a").rmtree()
        assert not (place / "a").exists()
    assert not Path("gs:").exists()


@pytest.mark.bucket
def test_no_bucket_is_one_line(bucket_server):
    with pytest.raises(UserError, match=r"^there is no bucket gs://nowhere$"):
        files.place("gs://nowhere/run")


@pytest.mark.bucket
def test_no_credentials_are_one_line_with_a_remedy(flaky, caplog):
    flaky.denied = "Anonymous caller does not have storage.objects.list access"
    files._reach.cache_clear()
    try:
        with pytest.raises(UserError) as error:
            files.place("gs://bkt/run")
    finally:
        files._reach.cache_clear()
    assert "gs://bkt cannot be read: Anonymous caller" in str(error.value)
    assert "gcloud auth application-default login" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not caplog.records  # gcsfs would print a traceback


@pytest.mark.bucket
def test_a_server_that_stays_busy_is_one_line(flaky, monkeypatch):
    from gcsfs import retry

    async def soon(seconds):
        pass

    monkeypatch.setattr(retry.asyncio, "sleep", soon)
    flaky.every = 1
    files._reach.cache_clear()
    try:
        with pytest.raises(UserError, match=r"test, (429|503); try again later$"):
            files.place("gs://bkt/run")
    finally:
        files._reach.cache_clear()


@pytest.mark.bucket
def test_a_busy_server_and_a_torn_upload_are_tried_again(bucket, flaky):
    place = files.place(bucket)
    flaky.cut, flaky.times = "torn", 1
    (place / "torn").write_text("x" * 1000)
    assert flaky.seen == [f"{bucket.removeprefix('gs://bkt/')}/torn"]
    flaky.every = 3
    assert [(place / "torn").read_text() for _ in range(2)] == ["x" * 1000] * 2
    assert {429, 503} & set(flaky.seen)
