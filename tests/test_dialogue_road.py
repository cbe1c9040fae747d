"""ERNIE's dialogue model by the command line: from a file to held-out figures."""

from __future__ import annotations

import json
import lzma
import random
import re

import pytest
from roads import Road, digest, mistake

from jaxlm.cli import main

TINY = """
    ernie_dialogue_tiny --text.language en
    --model.vocab_size 300 --model.num_heads 2 --model.d_model 16 --model.d_ff 32
    --model.dropout 0.1 --batch 64 --length 32 --predictions 8
    --log.tensorboard false --log.batches true --mesh.data 1
    --steps 4 --save_every 2 --eval_every 4 --log.every 1 --optim.warmup 1
"""


def chats() -> str:
    """A hundred dialogues of two to six turns; a speaker may have several in a row."""
    chance = random.Random(1)
    words = ["where", "how", "are", "the", "house", "ship", "near", "far"]

    def turn():
        text = " ".join(chance.choice(words) for _ in range(chance.randint(1, 12)))
        return {"speaker": chance.choice("ab"), "text": text}

    dialogues = [[turn() for _ in range(chance.randint(2, 6))] for _ in range(100)]
    return "".join(json.dumps({"turns": each}) + "\n" for each in dialogues)


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    return Road(tmp_path_factory.mktemp("chats"), TINY, chats(), kind="jsonl")


@pytest.mark.long
def test_resume_is_bitwise(road, capsys):
    assert main(["pretrain", *road("run")]) == 0
    whole = digest(capsys)
    assert main(["pretrain", *road("parts", "--stop", "1")]) == 0
    capsys.readouterr()
    assert main(["pretrain", *road("parts")]) == 0
    assert digest(capsys) == whole


@pytest.mark.long
def test_micro_batches_draw_the_same_rows(road, capsys):
    assert main(["pretrain", *road("micro", "--accumulate", "2")]) == 0
    whole, cut = road.lines("run"), road.lines("micro")
    assert [r["batch_sha256"] for r in whole] == [r["batch_sha256"] for r in cut]
    for one, other in zip(whole[:1], cut, strict=False):
        assert abs(one["dlm_loss"] - other["dlm_loss"]) < 1e-2


def test_figures_of_training_and_of_held_out_dialogues(road, capsys):
    last = road.lines("run")[-1]
    for name in ("dlm_loss", "dlm_real_accuracy", "eval_dlm_balanced_accuracy"):
        assert name in last
    assert "nsp_loss" not in last
    assert main(["evaluate", road.run, "--corpus", f"{road.here}/corpus"]) == 0
    assert "DLM balanced" in capsys.readouterr().out
    assert main(["show", road.run, "--rows", "4"]) == 0
    shown = capsys.readouterr().out
    assert ": dlm real" in shown and ": dlm replaced" in shown


@pytest.mark.long
def test_without_the_question_words_are_masked_all_the_same(road):
    assert main(["pretrain", *road("words", "--model.nsp", "false")]) == 0
    last = road.lines("words")[-1]
    assert "mlm_loss" in last and "dlm_loss" not in last


def test_mistakes(road, capsys, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"turns": ["a", "b"]}\n{"turns": ["a"]}\n')
    words = ["ernie_dialogue_tiny", "--corpus", str(tmp_path / "c"), "--text"]
    message = mistake(capsys, "prepare", *words, str(tmp_path / "bad.jsonl"))
    assert "line 2 has 1 turns" in message
    # A corpus of text.
    text = tmp_path / "text.txt"
    text.write_text("Some words.\n\nOther words.\n\nMore of them.\n")
    corpus = ["--corpus", str(tmp_path / "text"), "--model.vocab_size", "100"]
    assert main(["prepare", "bert_tiny", "--text", str(text), *corpus]) == 0
    where = [*corpus, "--workdir", str(tmp_path / "run"), "--mesh.data", "1"]
    where += ["--eval_every", "0"]
    message = mistake(capsys, "pretrain", "ernie_dialogue_tiny", *where)
    assert "the corpus is not of dialogues" in message


@pytest.mark.long
@pytest.mark.shared
def test_a_play_gives_dialogues_of_two(shared, tmp_path, capsys):
    """Stretches of Shakespeare in which only two people speak."""
    with lzma.open(shared / "tinyshakespeare" / "input.txt.xz", "rt") as file:
        said = re.findall(r"^(.+):\n((?:.+\n)+)", file.read(200_000), re.M)
    dialogues, now = [], []
    for who, text in said:
        if len({each["speaker"] for each in now} | {who}) > 2:
            dialogues.append(now)
            now = []
        now.append({"speaker": who, "text": " ".join(text.split())})
    kept = [each for each in dialogues if len(each) > 1]
    path = tmp_path / "plays.jsonl"
    path.write_text("".join(json.dumps({"turns": each}) + "\n" for each in kept))
    shape = "--model.num_layers 1 --model.d_model 16 --model.d_ff 16 --batch 8"
    argv = [
        *("pretrain", "ernie_dialogue_tiny", "--text", str(path)),
        *("--corpus", str(tmp_path / "corpus"), "--workdir", str(tmp_path / "run")),
        *("--processes", "1", "--text.language", "en", "--model.vocab_size", "500"),
        *("--mesh.data", "1", "--model.num_heads", "2", *shape.split()),
        *("--steps", "2", "--log.tensorboard", "false", "--holdout", "0.2"),
    ]
    assert main(argv) == 0
    assert "state sha256" in capsys.readouterr().out
