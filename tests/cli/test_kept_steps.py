"""Checkpoints that a run keeps, opened and exported."""

from __future__ import annotations

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
