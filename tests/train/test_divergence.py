"""A state stays sound, a run that diverges ends, and its advice can be followed."""

import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from roads import mistake, without_size
from runs import command, lines, pretrain
from tiny import tiny

from jaxlm.checkpoints import Checkpoints
from jaxlm.checkpoints.digests import measure
from jaxlm.cli import main
from jaxlm.config import OptimConfig
from jaxlm.train import source
from jaxlm.train.fork import fork_of
from jaxlm.types import UserError

FAST = OptimConfig(name="adamw", peak=1e30, warmup=0, decay="constant", clip=0.0)


@pytest.mark.parametrize("save_every", [1, 100])
def test_a_run_that_diverges_ends_whatever_is_saved(corpus, tmp_path, save_every):
    limits = {"save_every": save_every, "max_skipped": 3}
    config = tiny(optim=FAST, steps=40, **limits)
    with pytest.raises(
        UserError, match=r"steps 1 to 3 were skipped: .* 10000; "
    ) as end:
        pretrain(config, corpus, tmp_path)
    assert str(end.value).endswith("begin another --workdir with --optim.peak 5e+29")
    assert [line["skipped"] for line in lines(tmp_path)][:2] == [1, 2]


@pytest.mark.long
def test_the_advice_goes_on_from_the_last_sound_checkpoint(
    corpus_directory, tmp_path, monkeypatch, capsys
):
    """It is kept although newer checkpoints are, and its save is finished."""

    def poisoned(objective, optimizer, schedule, **options):
        step = plain_step(objective, optimizer, schedule, **options)

        def bad_at_full_rate(state, batch, seed):
            bad = (state.step >= 5) & (schedule(4) == np.float32(1e-3))
            weights = batch.weights * jnp.where(bad, jnp.nan, 1.0)
            return step(state, batch._replace(weights=weights), seed)

        return bad_at_full_rate

    plain_step = source.make_train_step
    monkeypatch.setattr(source, "make_train_step", poisoned)
    changes = {"save_every": 1, "max_skipped": 4, "keep": 2}
    words = command(tmp_path, corpus_directory, tmp_path / "a run", **changes)[3:]
    assert main(words) == 2
    error = without_size(capsys.readouterr().err)
    assert error.count("\n") == 1 and "steps 6 to 9 were skipped" in error
    kept = Checkpoints(tmp_path / "a run").steps()
    assert kept == [5, 7, 8] and "the last sound checkpoint is step 5. " in error
    advice = shlex.split(re.search("jaxlm (pretrain .*)", error)[1])
    assert advice[-4:] == ["--skip", "5:9", "--optim.peak", "0.0005"]
    assert main(advice) == 0
    assert lines(tmp_path / "a run-5")[-1] | {"step": 12, "skipped": 0}
    assert fork_of(advice[2]) == (str(tmp_path / "a run"), 5)


@pytest.mark.long
def test_a_run_with_nan_in_its_parameters_is_refused_by_every_verb(
    corpus, corpus_directory, tmp_path, capsys
):
    """As a run of an earlier version may have."""
    run, out = tmp_path / "run", str(tmp_path / "out")
    words = command(tmp_path, corpus_directory, run, steps=9, batch=8)[3:]
    assert main([*words, "--stop", "2"]) == 0
    checkpoints = Checkpoints(run)
    state = jax.tree.map(np.asarray, checkpoints.stored().state)
    state["params"]["mlm"]["bias"][7] = np.nan
    checkpoints.save(3, state, {})
    checkpoints.wait()
    text = tmp_path / "text.txt"
    text.write_text("It is a truth.\nIt is.\n\nA truth.\nIt was.\n")
    for argv in (
        ["fill", str(run), "It [MASK]."],
        ["embed", str(run), "--text", str(text), "--out", f"{out}.h5"],
        ["evaluate", str(run), "--text", str(text)],
        ["export", str(run), "--to", "hf", "--out", out],
        [*words, "--init", str(run), "--workdir", out],
        ["pretrain", "--fork", f"{run}@3", "--workdir", f"{out}-2"],
        words,
    ):
        said = mistake(capsys, *argv)
        assert "params/mlm/bias has NaN or infinite values" in said, argv
    state["params"]["mlm"]["bias"][7] = 2e4
    checkpoints.save(4, state, {})
    checkpoints.wait()
    assert main(["fill", str(run), "It [MASK]."]) == 0
    assert "params/mlm/bias has values up to 20000, above 10000" in mistake(
        capsys, *words
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_largest_value_is_measured_with_the_digest(dtype):
    x = jnp.asarray([[1, -3.5], [0, 2]], dtype)
    tree = {"a": x, "nan": x.at[1, 0].set(jnp.nan), "inf": x.at[0, 0].set(-jnp.inf)}
    found = measure({**tree, "n": jnp.arange(3), "none": x[:0], "m": x[0, 0]})[1]
    nan = found.pop("nan")
    assert np.isnan(nan)
    assert found == {"a": 3.5, "inf": np.inf, "n": 0, "none": 0, "m": 1}
