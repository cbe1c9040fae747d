"""ERNIE by the command line: from Chinese text to filled blanks."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
from roads import Road, digest, mistake

from jaxlm.cli import main
from jaxlm.config import Phase
from jaxlm.open import pretrained
from jaxlm.text.corpus import open_corpus
from jaxlm.train.loop import train
from jaxlm.train.source import corpus_source
from jaxlm.train.workdir import read_config
from jaxlm.types import Mark

TINY = """
    ernie_tiny --spans rjieba
    --model.vocab_size 200 --model.num_heads 2 --model.d_model 16 --model.d_ff 32
    --model.dropout 0.1 --data.levels 0.2 0.3 0.5 --batch 64 --length 32
    --predictions 8 --log.tensorboard false --log.batches true --mesh.data 1
    --steps 4 --save_every 2 --eval_every 4 --log.every 1 --optim.warmup 1
"""
PLACES = ["哈尔滨", "北京大学", "黑龙江省", "长江", "毛泽东"]
CLAUSES = ["他在{}工作了三年", "我们昨天去了{}", "{}是一个美丽的地方", "很多人知道{}"]


def chinese() -> str:
    """A hundred documents whose sentences contain names."""
    chance = random.Random(1)

    def sentence() -> str:
        return chance.choice(CLAUSES).format(chance.choice(PLACES)) + "。"

    return "\n\n".join("".join(sentence() for _ in range(8)) for _ in range(100))


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    return Road(tmp_path_factory.mktemp("ernie"), TINY, chinese())


def test_resume_is_bitwise(road, capsys):
    assert main(["pretrain", *road("run")]) == 0
    whole = digest(capsys)
    assert main(["pretrain", *road("parts", "--stop", "1")]) == 0
    capsys.readouterr()
    assert main(["pretrain", *road("parts")]) == 0
    assert digest(capsys) == whole


def test_rows_have_levels_in_the_shares_that_were_asked(road):
    records = road.lines("run")
    for name, share in (("token", 0.2), ("phrase", 0.3), ("entity", 0.5)):
        # 4 batches of 64 rows, five standard deviations.
        got = np.mean([record[f"{name}_rows"] for record in records])
        assert abs(got - share) < 5 * np.sqrt(share * (1 - share) / 256)
    last = records[-1]
    assert all(f"eval_mlm_{name}_accuracy" in last for name in ("token", "entity"))


def test_stages_are_phases_that_change_the_levels(road, tmp_path):
    """First tokens are masked, then entities."""
    shape = {"length": 32, "batch": 64, "predictions": 8}
    phases = (
        Phase(until=2, levels=(1.0, 0.0, 0.0), **shape),
        Phase(until=4, levels=(0.0, 0.0, 1.0), **shape),
    )
    config = dataclasses.replace(read_config(road.run), phases=phases)
    source = corpus_source(config, open_corpus(f"{road.here}/corpus"))
    train(config, source, tmp_path / "stages", initial=pretrained)
    text = (tmp_path / "stages" / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [r["entity_rows"] for r in records] == [0, 0, 1, 1]


def test_entities_are_masked_whole(road, capsys):
    corpus = open_corpus(f"{road.here}/corpus")
    tokens, marks = corpus.read(np.zeros(1, np.int64), corpus.num_tokens)
    starts = np.flatnonzero(marks[0] & Mark.ENTITY)
    names = {
        "".join(
            corpus.tokenizer.token(t)
            for t, m in zip(tokens[0, a : a + 4], marks[0, a : a + 4], strict=True)
            if m & Mark.IN_ENTITY
        )
        for a in starts
    }
    assert {"哈尔滨", "北京大学", "毛泽东"} <= names
    capsys.readouterr()
    assert main(["show", road.run, "--rows", "6"]) == 0
    shown = capsys.readouterr().out
    assert "are masked whole" in shown and "[(哈尔滨)]" in shown


def test_it_fills_blanks(road, capsys):
    capsys.readouterr()
    assert main(["fill", road.run, "哈尔滨是一个[MASK][MASK]的地方"]) == 0
    assert capsys.readouterr().out.count("[MASK]") == 2


def test_mistakes(road, capsys):
    assert "spans is 'none', was 'rjieba'" in mistake(
        capsys, "pretrain", *road("other", "--spans", "none")
    )
    assert "are not three shares" in mistake(
        capsys, "pretrain", *road("bad", "--data.levels", "0.5", "0.6", "0.1")
    )
