"""Jobs that make a corpus: cut up, killed, run again, refused: the same bytes."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from text.books import CONFIG, HELD_OUT, contents, novel

from jaxlm.config import BertConfig, RunConfig, TextConfig
from jaxlm.text import prepare as preparing
from jaxlm.text import units
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import UserError


@pytest.mark.parametrize("processes", [1, 3])
def test_units_and_processes_change_no_byte(books, tmp_path, small_units, processes):
    prepare(
        CONFIG,
        [str(books)],
        str(tmp_path / "corpus"),
        options=HELD_OUT,
        processes=processes,
    )
    assert contents(tmp_path / "corpus") == contents(books / "corpus")


def test_a_script_needs_no_guard(books, tmp_path):
    """Workers, fresh interpreters, do not run the script of their caller again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import jaxlm, jaxlm.text.units\nprint('begun')\n"
        "jaxlm.text.units.BLOCK = 1000  # several blocks, so several processes\n"
        "jaxlm.prepare('bert_tiny', text='books', "
        "corpus='corpus', processes=2, model={'vocab_size': 300})\nprint(__file__)\n"
    )
    (tmp_path / "books").symlink_to(books)
    command = [sys.executable, script.name]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["begun", str(script)], ran.stdout
    assert "Traceback" not in ran.stderr


def descendants(pid):
    """Processes that `pid` started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def gone(pids):
    """Whether all of `pids` end within some seconds."""
    for _ in range(500):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


STALLED = """
import pathlib, sys, time
from jaxlm.config import BertConfig, RunConfig
from jaxlm.text import prepare as preparing
from jaxlm.text import units
from jaxlm.text.recipe import ReadOptions

tokenise_all = units.tokenise_all

def stalling(*args):
    saved = pathlib.Path(sys.argv[2], ".partial/units")
    before, parts = len(list(saved.glob("*.npz"))), 0
    for part in tokenise_all(*args):
        parts += len(list(saved.glob("*.npz"))) - before >= int(sys.argv[4])
        if parts == 2:  # in the midst of a unit
            (saved / "000099.new").touch()
            pathlib.Path(sys.argv[2], "../stalled").touch()
            time.sleep(600)
        yield part

units.BLOCK, units.UNIT, units.tokenise_all = 1000, 4000, stalling
preparing.prepare(
    RunConfig(model=BertConfig(vocab_size=600)), [sys.argv[1]], sys.argv[2],
    options=ReadOptions(holdout=0.2), processes=int(sys.argv[3]),
)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_run_again_it_continues(
    books, tmp_path, small_units, monkeypatch, processes
):
    directory, stalled = tmp_path / "corpus", tmp_path / "stalled"
    command = [sys.executable, "-c", STALLED, str(books), str(directory)]
    for commits in (1, 2):
        with subprocess.Popen([*command, str(processes), str(commits)]) as child:
            while not stalled.exists():
                assert child.poll() is None, "it ended before it could be killed"
                time.sleep(0.02)
            workers = descendants(child.pid)
            child.send_signal(signal.SIGKILL)
        stalled.unlink()
        assert len(workers) >= processes if processes > 1 else not workers
        assert gone(workers), "a worker outlived its caller"
        with pytest.raises(UserError, match="no complete corpus"):
            open_corpus(str(directory))
    stored = map(units.StoredUnit, (directory / ".partial/units").glob("*.npz"))
    stood = sum(unit.counts["text_bytes"] for unit in stored)
    assert stood >= 3 * 4000
    read = []
    tokenise = units.tokenise_all

    def watched(blocks, *args):
        return tokenise((read.append(each[0]) or each for each in blocks), *args)

    monkeypatch.setattr(units, "tokenise_all", watched)
    prepare(CONFIG, [str(books)], str(directory), options=HELD_OUT)
    assert contents(directory) == contents(books / "corpus")
    again = sum(len(fragment.data) for block in read for fragment in block)
    total = open_corpus(str(books / "corpus")).manifest.text_bytes
    assert again == total - stood


def test_a_killed_worker_is_reported(books, tmp_path, small_units):
    def killing(progress):
        if progress.tokens:
            for worker in multiprocessing.active_children():
                worker.kill()

    directory = str(tmp_path / "corpus")
    with pytest.raises(UserError, match="was killed: run it again, it continues"):
        prepare(
            CONFIG,
            [str(books)],
            directory,
            options=HELD_OUT,
            processes=2,
            report=killing,
        )
    assert not multiprocessing.active_children()
    prepare(CONFIG, [str(books)], directory, options=HELD_OUT)
    assert contents(directory) == contents(books / "corpus")


def test_a_complete_corpus_is_left_alone(books, tmp_path, monkeypatch):
    shutil.copytree(books, tmp_path / "books")
    here, directory = str(tmp_path / "books"), str(tmp_path / "corpus")
    first = prepare(CONFIG, [here], directory, options=HELD_OUT)
    before = contents(directory)
    monkeypatch.setattr(units, "tokenise_all", None)
    monkeypatch.setattr(preparing, "train_tokenizer", None)
    assert prepare(CONFIG, [here], directory, options=HELD_OUT) == first
    os.utime(tmp_path / "books/0.txt")  # touched, not changed
    assert (
        prepare(
            CONFIG,
            [here],
            directory,
            options=ReadOptions(holdout=0.2, errors="replace"),
        )
        == first
    )
    for change, message in [
        ({"options": ReadOptions(holdout=0.3)}, "holdout is 0.3, was 0.2"),
        (
            {"options": ReadOptions(sentences="lines", holdout=0.2)},
            "sentences is 'lines', was 'auto'",
        ),
        ({"config": RunConfig(model=CONFIG.model, seed=3)}, "seed is 3, was 0"),
        (
            {"config": RunConfig(model=BertConfig(vocab_size=99))},
            "vocab_size is 99, was 600",
        ),
        (
            {"config": RunConfig(text=TextConfig(language="fr"), model=CONFIG.model)},
            r"languages is \('fr',\), was \('en',\)",
        ),
        ({"tokenizer": f"{directory}/tokenizer"}, "tokenizer is '[0-9a-f]{64}', was"),
        ({"sources": [f"{here}/0.txt"]}, "there are 1 sources, were 3"),
    ]:
        same = {"config": CONFIG, "sources": [here], "options": HELD_OUT}
        asked = {**same, **change}
        with pytest.raises(UserError, match=message) as caught:
            prepare(directory=directory, **asked)
        assert "delete it, or name another" in str(caught.value)
    text = (tmp_path / "books/1.txt").read_text()
    (tmp_path / "books/1.txt").write_text(text[:-3] + "!!\n")
    with pytest.raises(UserError, match=r"books/1\.txt has changed"):
        prepare(CONFIG, [here], directory, options=HELD_OUT)
    assert contents(directory) == before


@pytest.mark.parametrize("given", [False, True])
def test_a_corpus_of_the_first_version_is_left_alone(books, tmp_path, given):
    """Its manifest has only the fields that decide, and "strangers"."""
    sources, directory = [str(books / "0.txt")], tmp_path / "corpus"
    more = {"tokenizer": str(books / "corpus/tokenizer") if given else None}
    first = prepare(CONFIG, sources, str(directory), **more)
    content = json.loads((directory / "manifest.json").read_text())
    del content["sha256"]
    content["strangers"] = content.pop("oov_words")
    content["recipe"] = {"sentences": "auto", "holdout": 0.0, "language": "en"} | (
        {"tokenizer": first.tokenizer_sha256}
        if given
        else {"seed": 0, "tokenizer": "trained wordpiece"}
        | {"vocab_size": 600, "lowercase": True}
    )
    (directory / "manifest.json").write_text(json.dumps(content))
    again = prepare(CONFIG, sources, str(directory), **more)
    assert again.sha256 == first.sha256 and again.oov_words == 0
    with pytest.raises(UserError, match="holdout is"):
        options = ReadOptions(holdout=0.5)
        prepare(CONFIG, sources, str(directory), options=options, **more)


def test_a_job_without_finished_units_may_change_its_mind(tmp_path):
    (tmp_path / "a.txt").write_bytes(novel(5).encode() + b"\xff")
    directory = str(tmp_path / "corpus")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(CONFIG, [str(tmp_path / "a.txt")], directory)
    manifest = prepare(
        CONFIG,
        [str(tmp_path / "a.txt")],
        directory,
        options=ReadOptions(errors="replace"),
    )
    assert manifest.replaced == 1
    assert any("1 byte sequences" in note for note in manifest.notes)


def test_a_job_with_finished_units_may_not(books, tmp_path, small_units):
    text = (books / "0.txt").read_bytes()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.txt").write_bytes(b"Bad \xff byte.")
    tokenizer, directory = str(books / "corpus/tokenizer"), str(tmp_path / "corpus")
    asked = {"config": CONFIG, "sources": [str(tmp_path)], "directory": directory}
    for _ in range(2):
        with pytest.raises(UserError, match=r"b\.txt, line 1: byte 0xff is not UTF-8"):
            prepare(tokenizer=tokenizer, **asked)
    with pytest.raises(UserError, match="was begun without: delete it"):
        prepare(options=ReadOptions(holdout=0.5), tokenizer=tokenizer, **asked)
    manifest = prepare(
        options=ReadOptions(errors="replace"), tokenizer=tokenizer, **asked
    )
    assert manifest.documents == 41 and manifest.replaced == 1


def test_damage_to_unfinished_files_is_one_line_with_the_way_on(
    books, tmp_path, small_units, monkeypatch
):
    directory, asked = tmp_path / "corpus", {"options": HELD_OUT}

    def stop(self, tokenizer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparing._Job, "_write_arrays", stop)
        prepare(CONFIG, [str(books)], str(directory), **asked)
    partial = directory / ".partial"
    for name in ("job.json", "units/000001.npz", "tokenizer/jaxlm_tokenizer.json"):
        sound = (partial / name).read_bytes()
        for harmed in (b"", sound[:-9], sound.replace(b"1", b"2", 1)):
            (partial / name).write_bytes(harmed)
            with pytest.raises(UserError, match=name.split("/")[0]) as error:
                prepare(CONFIG, [str(books)], str(directory), **asked)
            assert "\n" not in str(error.value) and "delete " in str(error.value)
        (partial / name).write_bytes(sound)
    prepare(CONFIG, [str(books)], str(directory), **asked)
    assert contents(directory) == contents(books / "corpus")


def test_two_jobs_cannot_share_a_directory(books, tmp_path):
    directory = str(tmp_path / "corpus")
    refused = []

    def interfere(progress):
        if not refused:
            with pytest.raises(UserError, match="partial is in use by process"):
                prepare(CONFIG, [str(books)], directory)
            refused.append(progress)

    prepare(CONFIG, [str(books)], directory, report=interfere)
    assert refused


def test_a_folder_of_other_files_is_not_written(books, tmp_path):
    (tmp_path / "tokens").mkdir()
    with pytest.raises(UserError, match="holds other files and no corpus"):
        prepare(CONFIG, [str(books)], str(tmp_path))
    with pytest.raises(UserError, match="is written to a directory or to gs://"):
        prepare(CONFIG, [str(books)], "s3://bucket/corpus")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        prepare(CONFIG, [str(books)], str(tmp_path / "file/corpus"))


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
from jaxlm.config import BertConfig, RunConfig
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import UserError
try:
    prepare(RunConfig(model=BertConfig(vocab_size=600)), [sys.argv[1]], sys.argv[2],
            options=ReadOptions(holdout=0.2))
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [3_000, 12_000, 40_000])
def test_a_full_disk_is_one_line_and_loses_nothing(books, tmp_path, limit):
    """Files may not grow past `limit`: vocabulary, units or arrays fail."""
    directory = str(tmp_path / "corpus")
    # -B: Python would keep modules that are cut off.
    command = [sys.executable, "-B", "-c", FULL, str(books), directory, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("\n") == 1 and "cannot be written" in done.stdout
    prepare(CONFIG, [str(books)], directory, options=HELD_OUT)
    assert contents(directory) == contents(books / "corpus")


def test_progress_reaches_the_total(books, tmp_path):
    seen = []
    sources = [str(books)]
    directory, options = str(tmp_path / "corpus"), HELD_OUT
    prepare(CONFIG, sources, directory, options=options, report=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    names = ["sources", "held out", "vocabulary", "tokens", "arrays"]
    assert stages == names
    for stage in stages:
        steps = [progress for progress in seen if progress.stage == stage]
        assert steps[-1].done == steps[-1].total > 0
        assert all(a.done <= b.done for a, b in itertools.pairwise(steps))
