"""ELMo by the command line: from a text file to vectors and a fine-tuned task."""

from __future__ import annotations

import json
import math

import h5py
import numpy as np
import pytest
from reviews import reviews, write_tsv
from roads import Road, digest, mistake
from sentences import sentence_characters

import jaxlm
from jaxlm.cli import main
from jaxlm.types import UserError

TINY = """
    elmo_tiny
    --model.vocab_size 400 --model.d_model 12 --model.d_ff 16 --model.filters 4 8
    --model.max_characters 12 --model.dropout 0.1 --data.negatives 50
    --optim.name adagrad --optim.peak 0.2 --optim.factor 10
    --batch 8 --accumulate 2 --length 10 --log.tensorboard false --log.batches true
    --mesh.data 1 --steps 6 --save_every 2 --eval_every 3 --eval_rows 32 --log.every 2
    --optim.warmup 0
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    return Road(tmp_path_factory.mktemp("elmo"), TINY)


@pytest.fixture(scope="module")
def sst2_rows(tmp_path_factory) -> str:
    here = tmp_path_factory.mktemp("rows")
    for name in ("train", "dev"):
        write_tsv(here / f"{name}.tsv", ("sentence", "label"), reviews(24))
    return str(here)


def test_resume_is_bitwise_with_the_carried_state(road, capsys):
    """With dropout, sampled negatives and accumulation."""
    assert main(["pretrain", *road("run")]) == 0
    whole = digest(capsys)
    for stop in ("1", "3", "5", "6"):
        capsys.readouterr()
        assert main(["pretrain", *road("parts", "--stop", stop)]) == 0
    assert digest(capsys) == whole


@pytest.mark.devices
def test_every_mesh_reads_the_same_batches(road):
    assert (
        main(["pretrain", *road("eight", "--mesh.data", "-1", "--accumulate", "1")])
        == 0
    )
    assert main(["pretrain", *road("one", "--accumulate", "1")]) == 0
    one, eight = road.lines("one"), road.lines("eight")
    assert [r.get("batch_sha256") for r in one] == [
        r.get("batch_sha256") for r in eight
    ]
    # Dropout is drawn per row, so the losses agree too.
    for a, b in zip(one, eight, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_sampled_loss_is_not_called_a_perplexity(road):
    records = road.lines("run")
    assert "forward_sampled_loss" in records[-1] and "forward_loss" not in records[-1]
    assert records[-1]["eval_forward_perplexity"] == pytest.approx(
        math.exp(records[-1]["eval_forward_loss"])
    )


def test_evaluate_gives_both_directions_and_their_mean(road, capsys):
    capsys.readouterr()
    argv = ["evaluate", road.run, "--text", str(road.novel)]
    assert main([*argv, "--batch", "4", "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    mean = (found["forward_loss"] + found["backward_loss"]) / 2
    assert found["lm_loss"] == pytest.approx(mean)
    assert found["lm_perplexity"] == pytest.approx(math.exp(mean))
    # Both directions predict every word and every end of a sentence once.
    text = road.novel.read_text()
    assert found["targets"] % 2 == 0 and found["targets"] > 2 * len(text.split())
    assert main([*argv, "--batch", "16", "--json", "true"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["targets"] == found["targets"]
    # The rows are cut elsewhere: only the context at their starts differs.
    assert other["lm_loss"] == pytest.approx(found["lm_loss"], abs=0.02)
    assert main(argv) == 0
    assert "forward" in capsys.readouterr().out


def test_show_gives_both_directions_of_a_row(road, capsys):
    capsys.readouterr()
    assert main(["show", road.run, "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "row 1 forward\n" in shown and "row 1 backward\n" in shown
    forward = shown.split("row 0 forward\n")[1].splitlines()[0]
    assert len(forward.replace(" →", "→").split()) >= 10


def test_embed_writes_what_the_model_computes(road, capsys):
    (road.here / "s.txt").write_text("The bank of the river .\n\nA bank, lending.\n")
    run = road.run
    for name in ("v.h5", "v.npz"):
        files = ["--text", str(road.here / "s.txt"), "--out", str(road.here / name)]
        assert main(["embed", run, *files, "--layers", "all"]) == 0
    assert "3 lines, 11 tokens" in capsys.readouterr().out
    model = jaxlm.load(run)
    words = [
        ["The", "bank", "of", "the", "river", "."],
        [],
        ["A", "bank", ",", "lending", "."],
    ]
    ids, mask = sentence_characters(words, slots=12)
    hidden = np.asarray(model.forward(ids, mask=mask).hidden)
    packed = np.load(road.here / "v.npz")
    with h5py.File(road.here / "v.h5") as file:
        for i, each in enumerate(words):
            want = hidden[:, i, 1 : 1 + len(each)]
            assert file[str(i)].shape == (3, len(each), 24)
            np.testing.assert_allclose(file[str(i)][()], want, atol=1e-6)
            np.testing.assert_array_equal(file[str(i)][()], packed[str(i)])
            assert [w.decode() for w in file[f"tokens/{i}"][()]] == each
            assert packed[f"tokens/{i}"].tolist() == each


@pytest.mark.long
def test_a_task_is_learnt_from_the_run_s_features(road, sst2_rows, capsys):
    """The softmax is left out; the LSTM clips and the vocabulary are kept."""
    workdir = str(road.here / "task")
    words = ["finetune", "sst2_elmo", "--init", road.run, "--data", sst2_rows]
    flags = "--batch 8 --length 16 --task.epochs 1 --task.width 4"
    flags += " --log.tensorboard false --task.buckets 16 --task.mix both"
    assert main([*words, "--workdir", workdir, *flags.split()]) == 0
    out = capsys.readouterr().out
    assert "not used: softmax" in out and "mix out layer2" in out
    dev = f"{sst2_rows}/dev.tsv"
    assert main(["evaluate", workdir, "--data", dev]) == 0


def test_mistakes(road, capsys, tmp_path):
    run = road.run
    assert "an ELMo continues no text" in mistake(capsys, "generate", run)
    assert "an ELMo fills no blanks" in mistake(capsys, "fill", run, "a [MASK]")
    text = str(road.novel)
    embed = ["embed", run, "--text", text, "--out"]
    assert "none of .h5, .hdf5 and .npz" in mistake(
        capsys, *embed, str(tmp_path / "v.txt")
    )
    out = str(tmp_path / "v.h5")
    assert "layer 3: there are 0 (embedding) to 2" in mistake(
        capsys, *embed, out, "--layers", "3"
    )
    assert "pooling is none or mean" in mistake(capsys, *embed, out, "--pooling", "cls")
    assert not list(tmp_path.iterdir())
    assert "at most half of model.vocab_size = 400" in mistake(
        capsys, "pretrain", *road("half", "--data.negatives", "201")
    )
    phases = "phases.1.batch = 4 is not 8: the state goes from batch to batch"
    from jaxlm.config import Phase, RunConfig, elmo

    with pytest.raises(UserError, match=phases):
        RunConfig(
            model=elmo("tiny"),
            steps=2,
            phases=(
                Phase(until=1, length=10, batch=8, predictions=1),
                Phase(until=2, length=10, batch=4, predictions=1),
            ),
        )
    model = jaxlm.load(run)
    with pytest.raises(UserError, match="these are the 261 ids"):
        ids, _ = sentence_characters([["a"]], slots=12)
        model.forward(ids.astype(int) - 1)
