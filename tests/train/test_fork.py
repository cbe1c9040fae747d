"""A fork goes on from a checkpoint of another run, with the changes that it names."""

import dataclasses
import json
import math
import os
import shutil

import pytest
from roads import digest, mistake
from runs import command, lines
from tiny import tiny

from jaxlm.cli import main
from jaxlm.config import LogConfig, OptimConfig, Phase

CHANGES = {
    "log": LogConfig(every=1, batches=True, tensorboard=False),
    "keep": 5,
    "accumulate": 1,
}


@pytest.fixture(scope="module")
def parent(corpus_directory, tmp_path_factory):
    """A run of 12 steps with the checkpoints 4, 8 and 12."""
    here = tmp_path_factory.mktemp("fork")
    argv = command(here, corpus_directory, here / "parent", **CHANGES)[3:]
    assert main(argv) == 0
    return here / "parent"


def fork(parent, name: str, step: int, *flags: str) -> list[str]:
    run, new = f"{parent}@{step}", str(parent.parent / name)
    return ["pretrain", "--fork", run, "--workdir", new, *flags]


def test_a_fork_without_changes_ends_in_the_same_bits(parent, capsys):
    """Also if it stops and goes on without its parent, which is named by "..", too."""
    shutil.copytree(parent, parent.parent / "lent")
    (parent.parent / "there").mkdir()
    lent = parent.parent / "there" / ".." / "lent"
    assert main(fork(lent, "same", 4, "--stop", "6")) == 0
    shutil.rmtree(parent.parent / "lent")
    capsys.readouterr()
    assert main(fork(lent, "same", 4)) == 0
    same = digest(capsys)
    os.makedirs(parent.parent / "again", exist_ok=True)
    assert main(fork(parent, "again", 4)) == 0
    assert digest(capsys) == same
    assert lines(parent.parent / "same") == lines(parent)[4:]
    first, second = json.loads((parent.parent / "same/provenance.json").read_text())
    assert first["fork"]["step"] == 4 and first["fork"]["changes"] == {}
    assert first["fork"]["run"] == str(parent.parent / "lent")
    assert "fork" not in second


@pytest.mark.long
def test_skipped_batches_are_left_out_and_all_others_are_what_they_were(parent, capsys):
    skip = ["--skip", "5:7", "--optim.peak", "5e-4"]
    assert main(fork(parent, "skips", 4, *skip, "--steps", "10", "--stop", "7")) == 0
    capsys.readouterr()
    assert main(fork(parent, "skips", 4, *skip, "--steps", "10")) == 0
    parts = digest(capsys)
    assert main(fork(parent, "whole", 4, *skip, "--steps", "10")) == 0
    assert digest(capsys) == parts
    before = [line["batch_sha256"] for line in lines(parent)]
    after = [line["batch_sha256"] for line in lines(parent.parent / "whole")]
    assert after == [before[4], *before[7:12]]
    (record,) = json.loads((parent.parent / "whole/provenance.json").read_text())
    assert record["fork"]["changes"] == {
        "optim.peak": [1e-3, 5e-4],
        "skip.0": [None, "5:7"],
        "steps": [12, 10],
    }
    assert len(record["fork"]["state_sha256"]) == 64
    # A fork of the fork keeps what it has skipped, and reads on from there.
    further = ["--skip", "10:11", "--seed", "3"]
    assert main(fork(parent.parent / "whole", "further", 8, *further)) == 0
    last = [line["batch_sha256"] for line in lines(parent.parent / "further")]
    assert last == [before[11], *last[1:]] and len(last) == 2


@pytest.mark.long
def test_a_finished_run_goes_on_as_a_longer_one(parent, capsys):
    longer = ["--steps", "14", "--optim.decay", "constant", "--save_every", "1"]
    assert main(fork(parent, "longer", 12, *longer)) == 0
    rates = [line["learning_rate"] for line in lines(parent.parent / "longer")]
    assert rates == pytest.approx([1e-3, 1e-3])
    # A resume changes nothing.
    said = mistake_lines(capsys, *fork(parent, "longer", 12, *longer, "--seed", "9"))
    assert "seed was 3, is 9" in said
    said = mistake_lines(capsys, *fork(parent, "longer", 8, *longer))
    assert "fork was " in said


@pytest.mark.long
def test_a_run_of_constant_rate_is_decayed_from_a_checkpoint(
    corpus_directory, tmp_path
):
    """The fork's steps are those of a run that was to decay there from the start."""
    constant = OptimConfig(name="muon", peak=1e-3, warmup=2, decay="constant")
    wsd = dataclasses.replace(constant, decay="wsd", cooldown=4)
    for name, optim, steps in (("parent", constant, 8), ("whole", wsd, 8)):
        changes = {**CHANGES, "optim": optim, "steps": steps}
        argv = command(tmp_path, corpus_directory, tmp_path / name, **changes)
        assert main(argv[3:]) == 0
    flags = ["--steps", "8", "--optim.decay", "wsd", "--optim.cooldown", "4"]
    assert main(fork(tmp_path / "parent", "decayed", 4, *flags)) == 0
    decayed = lines(tmp_path / "decayed")
    rates = [line["learning_rate"] for line in decayed]
    falling = [1e-3 * (1 - math.sqrt(n / 4)) for n in range(4)]
    assert rates == pytest.approx(falling, rel=1e-5)
    losses = [line["loss"] for line in decayed]
    whole = [line["loss"] for line in lines(tmp_path / "whole")]
    assert losses == pytest.approx(whole[4:], rel=1e-5)


def mistake_lines(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "step, flags, why",
    [
        (4, "--model.num_layers 1", "cannot change model.num_layers (2 → 1)"),
        (4, "--optim.name lamb", "cannot change optim.name (adamw → lamb)"),
        (4, "--optim.b2 .9", "cannot change optim.b2 (0.999 → 0.9)"),
        (4, "--batch 32", "cannot change batch (16 → 32)"),
        (8, "--steps 6", "--steps 6: step 8 has nothing to train"),
        (8, "--steps 8", "--steps 8: step 8 has nothing to train"),
        (8, "--skip 7:9", "--skip 7:9: step 8 of "),
        (8, "--skip 9:9", "skip = 9:9 is not FIRST:END"),
        (8, "--skip 9:10 500:600", "skip = 500:600 skips nothing: the last batch is "),
        (8, f"--skip 9:{10**21}", f"skip = 9:{10**21} is not FIRST:END"),
        (7, "", "there is no such step; {parent} keeps the steps 4, 8, 12"),
    ],
)
def test_what_a_fork_cannot_change_is_named(parent, capsys, step, flags, why):
    said = mistake(capsys, *fork(parent, "wrong", step, *flags.split()))
    assert why.format(parent=parent) in said
    assert not (parent.parent / "wrong" / "config.json").exists()


def test_a_fork_says_what_it_needs(parent, capsys, tmp_path):
    new = ["--workdir", str(tmp_path / "new")]
    said = mistake(capsys, "pretrain", "--fork", str(parent), *new)
    assert f"is not RUN@STEP; {parent} keeps the steps 4, 8, 12" in said
    said = mistake(capsys, "pretrain", "--fork", f"{tmp_path}@4", *new)
    assert f"{tmp_path} is not a run directory" in said
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    said = mistake(capsys, "pretrain", "--fork", f"{tmp_path}@4", *new)
    assert f"{tmp_path} is a model directory, and no run" in said
    (tmp_path / "config.json").unlink()
    said = mistake(capsys, "pretrain", "bert_tiny", "--fork", f"{parent}@4", *new)
    assert "leave out bert_tiny" in said
    said = mistake(capsys, "finetune", "sst2", "--fork", "x@4", "--init", "y", *new)
    assert "y" in said


def test_batches_are_left_out_of_their_phase_only():
    config = tiny(skip=("8:10", "2:4", "3:5"))
    read = [config.batch_number(step) for step in range(9)]
    assert read == [0, 1, 5, 6, 7, 10, 11, 12, 13]
    rows = {"length": 16, "batch": 16, "predictions": 3}
    phases = (Phase(until=6, **rows), Phase(until=12, **rows))
    config = tiny(phases=phases, skip=("2:4", "5:7"))
    read = [config.batch_number(step) for step in range(10)]
    # Past its own steps, the first phase goes on in its own rows.
    assert read == [0, 1, 4, 6, 7, 8, 7, 8, 9, 10]
