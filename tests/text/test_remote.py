"""A corpus on `gs://`: prepared, copied, killed and changed, beside a local one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from text.books import CONFIG, contents, novel

from jaxlm import files, lease
from jaxlm.text import remote
from jaxlm.text.corpus import open_corpus, read_manifest
from jaxlm.text.prepare import prepare
from jaxlm.types import UserError

pytestmark = pytest.mark.bucket


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jaxlm/corpora"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Text, and the corpus of it."""
    path = tmp_path_factory.mktemp("local")
    (path / "text").mkdir()
    for i in range(2):
        (path / f"text/{i}.txt").write_text(novel(60, seed=i))
    prepare(CONFIG, [f"{path}/text"], f"{path}/corpus")
    return path


@pytest.fixture
def corpus(local, bucket):
    """The same corpus on `gs://`."""
    names = [*read_manifest(local / "corpus").files]
    place = files.place(f"{bucket}/corpus")
    remote.upload(local / "corpus", place, names, print)
    return place


def asked(monkeypatch):
    """The names of the files that are copied from now on."""
    seen, real = [], remote.bucket_files

    class Bucket:
        def __getattr__(self, name):
            return getattr(real(), name)

        def get_file(self, there, here):
            seen.append(there.partition("/corpus/")[2])
            real().get_file(there, here)

        def put_file(self, here, there):
            seen.append(there.partition("/corpus/")[2])
            real().put_file(here, there)

    monkeypatch.setattr(remote, "bucket_files", Bucket)
    return seen


def same(a, b):
    """Whether two open corpora hold the same."""
    everything = [np.array([0]), a.num_tokens]
    pairs = zip(a.read(*everything), b.read(*everything), strict=True)
    return a.manifest == b.manifest and all((x == y).all() for x, y in pairs)


def test_a_corpus_on_a_bucket_has_the_bytes_of_a_local_one(
    local, bucket, tmp_path, cache, monkeypatch
):
    wanted, there = contents(local / "corpus"), files.place(f"{bucket}/corpus")
    manifest = prepare(CONFIG, [f"{local}/text"], str(there))
    root = str(there).removeprefix("gs://")
    stored = remote.bucket_files().find(root)
    found = {name.removeprefix(f"{root}/"): name for name in stored}
    assert found.keys() == wanted.keys()
    assert all((there / name).read_bytes() == wanted[name] for name in wanted)
    # Again: nothing is written. A run on this host reads what was made here.
    seen = asked(monkeypatch)
    assert prepare(CONFIG, [f"{local}/text"], str(there)) == manifest
    assert same(open_corpus(str(there)), open_corpus(f"{local}/corpus"))
    assert not seen and os.listdir(cache) == [manifest.sha256[:16]]
    other = tmp_path / "other.txt"
    other.write_text(novel(60))
    with pytest.raises(UserError, match=f"corpus in {there} was made without: delete"):
        prepare(CONFIG, [str(other)], str(there))


def test_text_on_a_bucket_makes_the_records_of_local_text(local, bucket, tmp_path):
    remote.bucket_files().put(f"{local}/text/", f"{bucket}/text/", recursive=True)
    files.place(f"{bucket}/text/notes.md").write_text("no text")
    wanted = read_manifest(local / "corpus")
    for number, spec in enumerate(("text", "text/*.txt", "text/")):
        made = prepare(CONFIG, [f"{bucket}/{spec}"], f"{tmp_path}/{number}")
        assert made.files == wanted.files
        assert [each["sha256"] for each in made.sources] == [
            each["sha256"] for each in wanted.sources
        ]
    with pytest.raises(UserError, match="no text file matches"):
        prepare(CONFIG, [f"{bucket}/tex"], f"{tmp_path}/none")


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer/vocab.txt"])
def test_a_tokenizer_on_a_bucket_is_that_on_the_disk(local, bucket, tmp_path, name):
    there = f"{bucket}/tokenizer"
    remote.bucket_files().put(f"{local}/corpus/tokenizer/", f"{there}/", recursive=True)
    made = [
        prepare(CONFIG, [str(local / "text")], f"{tmp_path}/{i}", tokenizer=each)
        for i, each in enumerate((f"{local}/corpus/{name}", f"{bucket}/{name}"))
    ]
    assert made[0].sha256 == made[1].sha256


def test_two_machines_make_a_corpus_once(local, bucket, monkeypatch):
    """The second waits for the lock of the first, and finds the corpus made."""
    monkeypatch.setattr(lease, "LIMIT", 1.0)
    made, what = f"{bucket}/made", (CONFIG, [f"{local}/text"])
    with (
        lease.leased(made),
        pytest.raises(UserError, match=r"made is in use by process \d+ .* is renewed"),
    ):
        prepare(*what, made)
    assert not files.place(f"{made}/manifest.json").exists()
    first = prepare(*what, made)
    monkeypatch.setattr(remote, "upload", lambda *_: pytest.fail("it is there"))
    assert prepare(*what, made).sha256 == first.sha256
    assert not files.place(f"{made}/.lock").exists()


def test_an_interrupted_upload_goes_on(local, bucket, flaky, cache, monkeypatch):
    there = files.place(f"{bucket}/corpus")
    real = remote._put

    def torn(here, there, name):
        if name.startswith("marks"):
            raise OSError("the line is dead")
        real(here, there, name)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_put", torn)
        with pytest.raises(UserError, match=r"the line is dead; the same command"):
            prepare(CONFIG, [f"{local}/text"], str(there))
    with pytest.raises(UserError, match="no complete corpus"):
        open_corpus(str(there))
    # A torn object has another size or digest.
    (there / "types.txt").write_text("")
    (there / "tokens/zarr.json").write_text("{")
    seen = asked(monkeypatch)
    flaky.every, flaky.cut, flaky.times = 5, "marks/c", 1
    manifest = prepare(CONFIG, [f"{local}/text"], str(there))
    assert {429, 503} & set(flaky.seen)
    assert "tokens/zarr.json" in seen and seen[-1] == "manifest.json"
    assert "tokens/c/0" not in seen
    flaky.every = 0
    shutil.rmtree(cache)
    assert open_corpus(str(there)).manifest == manifest


def test_a_copy_is_made_once_and_mended(local, corpus, tmp_path, monkeypatch):
    plain, seen = open_corpus(f"{local}/corpus"), asked(monkeypatch)
    cache = str(tmp_path / "disk")
    first = open_corpus(str(corpus), cache)
    assert same(first, plain) and sorted(seen) == sorted(plain.manifest.files)
    assert first.files.parent == Path(cache) and first.directory == str(corpus)
    seen.clear()
    assert same(open_corpus(str(corpus), cache), plain) and not seen
    # Damage that opening finds, then damage that reading finds.
    (first.files / "sentences/c/0").write_bytes(b"")
    assert same(open_corpus(str(corpus), cache), plain)
    assert seen == ["sentences/c/0"]
    shard = first.files / "tokens/c/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        UserError, match=r"damaged: .*the same command copies them anew"
    ):
        same(open_corpus(str(corpus), cache), plain)
    assert same(open_corpus(str(corpus), cache), plain)
    assert seen == ["sentences/c/0", "tokens/c/0"]


def test_what_a_copy_lacks_is_said_in_one_line(corpus, tmp_path, monkeypatch, flaky):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(
            UserError, match=r"0.0 MB free: name another disk by --data"
        ):
            open_corpus(str(corpus))
    with pytest.raises(UserError, match="there is no bucket gs://nowhere"):
        open_corpus("gs://nowhere/corpus")
    with pytest.raises(UserError, match="no complete corpus in gs://bkt/none"):
        open_corpus("gs://bkt/none")
    flaky.denied = "Permission denied on storage.objects.get"
    with pytest.raises(UserError, match="json cannot be read: Permission denied"):
        open_corpus(str(corpus))
    flaky.denied = ""
    (corpus / "marks/c/0").write_bytes(b"x")
    with pytest.raises(UserError, match="marks/c/0 was changed or is torn"):
        open_corpus(str(corpus))
    (corpus / "marks/c/0").unlink()
    with pytest.raises(UserError, match=r"cannot be copied to .*: there is no file"):
        open_corpus(str(corpus))
    text = (corpus / "manifest.json").read_text()
    changed = json.loads(text.replace("tokens/zarr.json", "../../x"))
    files.write_sealed(
        tmp_path / "m", {k: v for k, v in changed.items() if k != "sha256"}
    )
    (corpus / "manifest.json").write_bytes((tmp_path / "m").read_bytes())
    with pytest.raises(UserError, match="names a file outside of it"):
        open_corpus(str(corpus))


SLOW = """
import sys, time
from jaxlm.text import remote
from jaxlm.text.corpus import open_corpus
sound = remote._is_sound
def slowly(path, recorded):
    if path.name == ".0.new":
        print("copying", flush=True)
        time.sleep(float(sys.argv[2]))
    return sound(path, recorded)
remote._is_sound = slowly
said = lambda progress: print(progress.stage, flush=True)
print(open_corpus(sys.argv[1], "", said).files)
"""


def test_a_killed_copy_goes_on_and_two_copies_wait(corpus, cache, monkeypatch):
    def start(seconds):
        command = [sys.executable, "-c", SLOW, str(corpus), seconds]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start("60") as killed:
        while killed.stdout.readline() != "copying\n":
            assert killed.poll() is None
        copy = next(cache.iterdir())
        for _ in range(200):
            if kept := list(copy.glob("*/zarr.json")):
                break
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert kept and not (copy / "manifest.json").exists()
    seen = []
    lock = files.locked(copy / ".lock")
    with lock, start("0") as waits:
        assert waits.stdout.readline().startswith("waiting for process")
        time.sleep(0.1)
        assert waits.poll() is None
        held = True
        lock.__exit__(None, None, None)
        seen = waits.stdout.read().split()
    assert held and seen[-1] == str(copy)
    copied = asked(monkeypatch)
    assert open_corpus(str(corpus)).files == copy and not copied
