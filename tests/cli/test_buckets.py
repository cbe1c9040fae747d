"""Runs and models on `gs://`, from the command line, on a fake server."""

import json
import re
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from cli.commands import again, mistake
from reviews import reviews, write_tsv

from jaxlm.cli import main
from jaxlm.files import copy_tree, listed, place, write_sealed

pytestmark = pytest.mark.bucket


@pytest.fixture(autouse=True)
def no_local_folder(monkeypatch, tmp_path):
    """Nothing on `gs://` goes to a local folder `gs:`."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("gs:").exists()


def on(workdir: str, run: Path, *more: str) -> list[str]:
    command = again(run, *more)
    command[command.index("--workdir") + 1] = workdir
    return command


def state(capfd) -> str:
    return re.findall("state sha256 (.*)", capfd.readouterr().out)[-1]


def names(directory: str) -> list[str]:
    return [each.name for each in listed(directory)]


def test_a_run_is_killed_goes_on_and_is_used(run, bucket, capfd):
    there = f"{bucket}/run"
    assert main(again(run)) == 0  # the same run on the disk: nothing left to train
    whole = state(capfd)
    code = "import jaxlm.lease as l; l.LIMIT = 2; from jaxlm.cli import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *on(there, run, "--save_every", "1")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not place(f"{there}/checkpoints/2/commit_success.txt").exists():
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started.kill()
    started.wait()
    assert main(on(there, run, "--save_every", "1")) == 0
    out = capfd.readouterr()
    assert re.search("resuming at step [234]", out.out), out
    assert re.findall("state sha256 (.*)", out.out) == [whole]
    assert names(f"{there}/checkpoints") == ["3", "4"]
    assert not place(f"{there}/.lock").exists()
    lines = place(f"{there}/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 4]
    assert len(json.loads(place(f"{there}/provenance.json").read_text())) == 2

    assert main(["fill", there, "It is a [MASK] ."]) == 0
    assert "[MASK] 1: " in capfd.readouterr().out
    assert main(["show", there]) == 0
    assert f"{there}: 4 steps" in capfd.readouterr().out


@pytest.mark.long
def test_a_run_in_a_bucket_is_exported_forked_and_begun_from(run, bucket, capfd):
    there = f"{bucket}/run"
    copy_tree(run, there)
    for step in ("2", "4"):
        place(f"{there}/checkpoints/{step}/commit_success.txt").write_text("")
    # A model directory, from the bucket and to it; an earlier export is replaced whole.
    model = f"{bucket}/model"
    place(f"{model}/vocab.txt").write_text("of another export")
    assert "holds other files" in mistake(capfd, "export", there, *to(model))
    place(f"{model}/jaxlm_export.json").write_text("{}")
    place(f"{model}/old.bin").write_text("")
    assert main(["export", there, *to(model)]) == 0
    assert "old.bin" not in names(model) and "model.safetensors" in names(model)
    assert main(["fill", model, "It is a [MASK] ."]) == 0
    assert main(["export", model, *to("here")]) == 0
    place(f"{model}/model.safetensors").write_bytes(b"half")  # a torn export
    assert "is not as it was written" in mistake(capfd, "fill", model, "A [MASK] .")
    assert main(["export", there, *to(model)]) == 0

    # New runs that begin from the one in the bucket, or from its model.
    steps = ["--steps", "6", "--eval_every", "0"]
    forks = {}
    for source in (there, str(run)):
        name = f"{bucket}/fork-{len(forks)}"
        command = [*on(name, run)[2:], "--fork", f"{source}@4", *steps]
        capfd.readouterr()
        assert main(["pretrain", *command]) == 0
        forks[source] = state(capfd)
    assert len(set(forks.values())) == 1
    for init in (there, model):
        begun = on(f"{bucket}/from-{init[-3:]}", run, "--init", init, *steps)
        assert main([*begun, "--stop", "1"]) == 0

    text = Path("text.txt")
    text.write_text("It is a truth universally acknowledged.\n")
    vectors = f"{bucket}/vectors.npz"
    assert main(["embed", there, "--text", str(text), "--out", vectors]) == 0
    assert place(vectors).exists()
    assert main(["evaluate", there, "--corpus", str(run.parent / "corpus")]) == 0


def to(out: str) -> list[str]:
    return ["--to", "hf", "--out", out]


@pytest.mark.long
def test_a_busy_server_a_torn_upload_and_retention(run, bucket, flaky, capfd):
    """Requests are tried again; the run is the one of a quiet server."""
    assert main(again(run)) == 0
    whole = state(capfd)
    flaky.every, flaky.cut, flaky.times = 60, "params|metrics", 2
    assert main(on(f"{bucket}/run", run, "--keep", "1")) == 0
    assert state(capfd) == whole
    assert {429, 503} & set(flaky.seen) and [n for n in flaky.seen if str(n) == n]
    assert names(f"{bucket}/run/checkpoints") == ["4"]


def test_mistakes_are_one_line(run, bucket, capfd):
    said = mistake(capfd, *on("gs://nowhere/run", run))
    assert said == "jaxlm: there is no bucket gs://nowhere\n"
    said = mistake(capfd, "fill", f"{bucket}/none", "A [MASK] .")
    assert (
        said == f"jaxlm: {bucket}/none does not exist: name a run or model directory\n"
    )
    said = mistake(capfd, *on(f"{bucket}/run", run, "--init", f"{bucket}/none"))
    assert "there is no such directory" in said
    data = ["--data", f"{bucket}/data", "--init", str(run), "--workdir", "task"]
    said = mistake(capfd, "finetune", "sst2", *data)
    assert said == f"jaxlm: no file or directory {bucket}/data\n"


def test_a_refusal_in_the_midst_is_one_line(bucket, flaky, capsys):
    place(bucket)  # it could be listed
    flaky.denied = "Permission denied on storage.objects.get"
    assert flaky.denied in mistake(capsys, "show", f"{bucket}/run")


@pytest.mark.long
def test_a_task_s_files_are_read_from_a_bucket_and_answers_written_to_it(
    run, bucket, capfd, tmp_path
):
    for name, count, seed in (("train", 24, 1), ("dev", 8, 2), ("test-de", 8, 3)):
        rows = reviews(count, seed)
        write_tsv(tmp_path / f"d/{name}.tsv", ("sentence", "label"), rows)
    copy_tree(tmp_path / "d", f"{bucket}/d")
    flags = "--batch 8 --length 16 --task.buckets 16 --task.epochs 1 --task.pack false"
    flags += " --log.tensorboard false --save_every 3"
    states, answers = [], []
    for data, out in (
        (f"{tmp_path}/d", f"{tmp_path}/out.tsv"),
        (f"{bucket}/d", f"{bucket}/out.tsv"),
    ):
        words = ["--init", str(run), "--data", data, "--workdir", f"{out}-run"]
        assert main(["finetune", "sst2", *words, *flags.split()]) == 0
        states.append(state(capfd))
        dev = f"{data}/dev.tsv"
        assert main(["predict", f"{out}-run", "--data", dev, "--out", out]) == 0
        answers.append(place(out).read_text())
        assert "8 answers" in capfd.readouterr().out
        assert main(["evaluate", f"{out}-run", "--transfer", data]) == 0
        assert (place(f"{out}-run") / "transfer.json").exists()
    assert states[0] == states[1] and answers[0] == answers[1]
    [record] = json.loads(place(f"{bucket}/out.tsv-run/provenance.json").read_text())
    assert record["data"] == f"{bucket}/d/train.tsv"
    said = mistake(capfd, "predict", f"{out}-run", "--data", dev, "--out", dev)
    assert "is the file of --data" in said


def test_half_a_save_is_removed_and_never_a_step(bucket):
    """Without the object that is written last, the rest is no checkpoint."""
    import jax.numpy as jnp

    from jaxlm.checkpoints import Checkpoints, UnsoundError

    state = {"params": {"a": jnp.arange(4.0)}}
    checkpoints = Checkpoints(bucket)
    assert checkpoints.open() == [] == checkpoints.steps()
    for step in (1, 2):
        checkpoints.save(step, state, {})
    checkpoints.wait()
    place(f"{bucket}/checkpoints/2/commit_success.txt").unlink()
    again = Checkpoints(bucket)
    assert again.steps() == [1] and again.restore(state).step == 1
    assert again.open() == ["2"]
    assert names(f"{bucket}/checkpoints") == ["1"]
    place(f"{bucket}/checkpoints/1/state/params/a/c/0").write_bytes(b"half")
    with pytest.raises(UnsoundError, match="leaf params/a"):
        again.restore(state)


def test_a_run_on_a_corpus_of_a_bucket_has_the_state_of_a_local_one(
    run, bucket, capfd, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert main(again(run)) == 0
    whole, there = state(capfd), f"{bucket}/corpus"
    command = again(run)
    corpus = Path(command[command.index("--corpus") + 1])
    copy_tree(corpus, there, last="manifest.json")
    command[command.index("--corpus") + 1] = there
    command[command.index("--workdir") + 1] = str(tmp_path / "run")
    assert main([*command, "--data.cache", str(tmp_path / "disk")]) == 0
    assert state(capfd) == whole
    assert len(list((tmp_path / "disk").glob("*/manifest.json"))) == 1
    record = json.loads((tmp_path / "run/provenance.json").read_text())[-1]
    assert record["corpus"] == there
    assert main(["show", there, "--rows", "1"]) == 0
    assert f"{there}: " in capfd.readouterr().out
    # Another corpus at the same place.
    manifest = json.loads((corpus / "manifest.json").read_text())
    content = {k: v for k, v in manifest.items() if k != "sha256"}
    files = {
        **content["files"],
        "types.txt": {"bytes": 0, "sha256": sha256().hexdigest()},
    }
    place(f"{there}/types.txt").write_bytes(b"")
    write_sealed(place(f"{there}/manifest.json"), {**content, "files": files})
    assert "corpus_sha256 was" in mistake(capfd, *command)


def test_an_outage_ends_as_an_interruption_does(monkeypatch, capsys):
    """Scripts that launch runs then give the command again."""
    from gcsfs.retry import validate_response

    def answers(code):
        def run(argv):
            validate_response(code, f"answer {code}", "b/o")

        return run

    for code, status in ((503, 75), (429, 75), (400, 2)):
        monkeypatch.setattr("jaxlm.cli.show.run_show", answers(code))
        assert main(["show", "gs://b/run"]) == status
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"answer {code}" in said
        assert ("the same command resumes" in said) == (status == 75)


def test_a_bucket_that_is_not_reached_is_an_outage(monkeypatch, capsys):
    import asyncio

    import aiohttp

    async def ask():
        async with aiohttp.ClientSession() as session:
            await session.get("http://127.0.0.1:9")  # no server has this port

    monkeypatch.setattr("jaxlm.cli.show.run_show", lambda argv: asyncio.run(ask()))
    assert main(["show", "gs://b/run"]) == 75
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Cannot connect to host 127.0.0.1:9" in said
    assert said.endswith("; the same command resumes\n")
