"""Checkpoints that a run keeps, opened and exported."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from roads import mistake

import jaxlm
from jaxlm.cli import main
from jaxlm.families import build
from jaxlm.open import kept_steps
from jaxlm.train.state import init_params
from jaxlm.types import UserError


def to(path) -> list[str]:
    return ["--to", "hf", "--out", str(path)]


def test_a_run_is_opened_and_exported_at_each_step_it_keeps(run, tmp_path, capsys):
    start, kept = jaxlm.load(run, step=0), kept_steps(run)
    first = init_params(build(start.config), start.run.seed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, start.params
    )
    for wrong in (7, -1):
        with pytest.raises(UserError, match=rf"no step {wrong}, but 0, 1, 2.*; pre"):
            jaxlm.load(run, step=wrong)

    assert main(["export", str(run), *to(tmp_path / "out"), "--step", "all"]) == 0
    for step in kept:
        here, there = jaxlm.load(run, step=step), tmp_path / f"out/step{step}"
        jax.tree.map(
            np.testing.assert_array_equal, here.params, jaxlm.load(there).params
        )
    assert kept[-1] == 4 == jaxlm.load(run).step
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), here.params, start.params)
    assert max(jax.tree.leaves(moved)) > 0
    one = tmp_path / "out/step1"
    with pytest.raises(UserError, match="only a run has a step 1"):
        jaxlm.load(one, step=1)
    capsys.readouterr()
    line = mistake(capsys, "export", str(one), *to(tmp_path / "two"), "--step", "all")
    assert "needs a run" in line


@pytest.mark.probe
def test_senses_are_followed_over_training(run, tmp_path, capsys):
    """At each step the sheet has what the step alone has."""
    lines = ["money\tthe bank of money", "money\tmoney in a bank"]
    lines += ["river\tthe river bank", "river\ta bank of the river"]
    (tmp_path / "bank.txt").write_text("".join(f"{each}\n" for each in lines))
    text = ["--word", "bank", "--text", str(tmp_path / "bank.txt")]
    command = ["probe", "senses", str(run), *text, "--cache", str(tmp_path / "cache")]

    def measured(*steps: str) -> dict:
        out = tmp_path / "out.html"
        assert main([*command, "--steps", *steps, "--out", str(out)]) == 0
        return json.loads(out.with_suffix(".json").read_text())

    sheet = measured("all")
    assert sheet["steps"] == kept_steps(run) == [0, 1, 2, 4]
    (title,) = sheet["tables"]
    for i, step in ((0, "0"), (3, "4")):
        alone = measured(step)["tables"][title]["same sense"]
        found = sheet["tables"][title]
        assert [row[i] for name, row in found.items() if "layer" in name] == alone
    page = (tmp_path / "out.html").read_text()
    assert measured("0", "4")["steps"] == [0, 4] and "<svg" in page
    line = mistake(capsys, *command, "--steps", "3")
    assert "no step 3, but 0, 1, 2, 4" in line
    (tmp_path / "bank.txt").write_text("bank\nbank\n")
    assert "--steps needs senses" in mistake(capsys, *command, "--steps", "all")


@pytest.mark.probe
def test_heads_are_followed_over_training(run, tmp_path, capsys):
    """At each step the sheet has what the step alone has."""
    command = ["probe", "attention", str(run), "the bank of the river", "--out"]

    def measured(*steps: str) -> dict:
        out = tmp_path / "heads.html"
        assert main([*command, str(out), "--steps", *steps]) == 0
        return json.loads(out.with_suffix(".json").read_text())

    sheet = measured("all")
    assert [each["step"] for each in sheet["steps"]] == kept_steps(run)
    assert "First token over training, by head" in (tmp_path / "heads.html").read_text()
    for i, step in ((0, "0"), (3, "4")):
        alone = measured(step)
        assert alone["figures"] == sheet["steps"][i]["figures"] and not alone["steps"]
    assert sheet["figures"] == sheet["steps"][-1]["figures"]
    assert "First token over training" in capsys.readouterr().out


def test_curves_need_kept_checkpoints(tmp_path, capsys):
    command = ["probe", "edge", str(tmp_path), "--data", str(tmp_path / "a.conllu")]
    (tmp_path / "a.conllu").write_text("1\ta\ta\tX\tX\t_\t0\troot\t_\t_\n")
    command += ["--dev", str(tmp_path / "a.conllu"), "--label", "upos"]
    line = mistake(capsys, *command, "--steps", "all")
    assert "keeps 0 checkpoints, a curve needs 3; pretrain --keep_every log" in line
