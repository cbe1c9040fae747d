"""The loop's promises: resume is bitwise, batches are the run's, damage is named."""

import dataclasses
import signal
import subprocess
import time

import numpy as np
import pytest
from runs import command, environment, lines, pretrain
from tiny import stored, tiny

from jaxlm.config import MaskedData, MeshConfig, Phase


def stopped(config, step):
    return dataclasses.replace(config, stop=step)


def test_resume_is_bitwise(corpus, tmp_path):
    """Dropout, masking, pairs and accumulation on; stops off and on the save grid."""
    config = tiny()
    whole = pretrain(config, corpus, tmp_path / "whole")
    for stop in (3, 8, 9):
        parts = pretrain(stopped(config, stop), corpus, tmp_path / "parts")
        assert parts.step == stop
    parts = pretrain(config, corpus, tmp_path / "parts")
    assert parts.sha256 == whole.sha256
    kept = [
        r for r in lines(tmp_path / "parts") if r["step"] % 2 == 0 or r["step"] == 1
    ]
    assert kept == lines(tmp_path / "whole")


@pytest.mark.long
def test_a_run_of_many_objectives_resumes_to_the_bit(corpus, tmp_path):
    """Packed rows, a stage of causal rows, one of both kinds, a falling mask rate."""
    shape = {"length": 32, "batch": 16, "predictions": 10, "accumulate": 2}
    phases = (
        Phase(until=4, causal_share=1.0, **shape),
        Phase(until=8, causal_share=0.25, **shape),
        Phase(until=12, **shape),
    )
    data = MaskedData(threads=2, packed=True, mask_rate=0.3, mask_rate_end=0.15)
    model = dataclasses.replace(tiny().model, nsp=False)
    config = tiny(model=model, data=data, phases=phases, eval_every=6, eval_rows=32)
    whole = pretrain(config, corpus, tmp_path / "whole")
    for stop in (3, 9):
        pretrain(stopped(config, stop), corpus, tmp_path / "parts")
    assert pretrain(config, corpus, tmp_path / "parts").sha256 == whole.sha256
    found = {line["step"]: line for line in lines(tmp_path / "whole")}
    losses = {
        step: {name for name in ("lm_loss", "mlm_loss", "padding") if name in line}
        for step, line in found.items()
    }
    assert losses[4] == {"lm_loss", "padding"}
    assert losses[8] == {"lm_loss", "mlm_loss", "padding"}
    assert losses[12] == {"mlm_loss", "padding"}
    assert found[12]["padding"] < 0.03
    assert found[6].keys() >= {"eval_lm_loss", "eval_mlm_loss"}
    assert found[6]["eval_loss"] == found[6]["eval_mlm_loss"]


@pytest.mark.parametrize("stop", [0, 12, 5])
def test_a_run_with_nothing_left_to_train_says_so(corpus, tmp_path, capsys, stop):
    """Also where --stop names a step that is passed already."""
    first = pretrain(tiny(), corpus, tmp_path)
    written = (tmp_path / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    again = pretrain(stopped(tiny(), stop), corpus, tmp_path)
    assert again == first
    assert capsys.readouterr().out.splitlines() == [
        "resuming at step 12",
        "nothing left to train: the run is already at step 12",
    ]
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


@pytest.mark.long
def test_steps_in_log_spacing_are_saved_and_kept(corpus, tmp_path):
    for stop in (6, 0):
        config = tiny(keep_every="log", keep=1, save_every=5, stop=stop)
        pretrain(config, corpus, tmp_path / "log")
        kept = sorted(int(p.name) for p in (tmp_path / "log/checkpoints").iterdir())
        assert kept == ([0, 1, 2, 4, 6] if stop else [0, 1, 2, 4, 8, 12])
    pretrain(tiny(keep_every=3, keep=1), corpus, tmp_path / "three")
    kept = sorted(int(p.name) for p in (tmp_path / "three/checkpoints").iterdir())
    assert kept == [3, 6, 9, 12]
    assert stored(config) == config


@pytest.mark.long
def test_another_seed_is_another_run(corpus, tmp_path):
    one = pretrain(tiny(steps=2), corpus, tmp_path / "a")
    two = pretrain(tiny(steps=2, seed=4), corpus, tmp_path / "b")
    assert one.sha256 != two.sha256
    assert (
        lines(tmp_path / "a")[0]["batch_sha256"]
        != lines(tmp_path / "b")[0]["batch_sha256"]
    )


def test_evaluating_and_saving_do_not_touch_the_run(corpus, tmp_path):
    plain = pretrain(tiny(), corpus, tmp_path / "plain")
    busy = pretrain(tiny(eval_every=3, save_every=1, keep=1), corpus, tmp_path / "busy")
    assert plain.sha256 == busy.sha256
    last = lines(tmp_path / "busy")[-1]
    assert 0 <= last["eval_mlm_accuracy"] <= 1
    assert last["eval_nsp_majority_accuracy"] >= 0.5


@pytest.mark.devices
@pytest.mark.long
@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)]
)
def test_every_mesh_reads_the_same_batches_and_goes_on_from_any_state(
    corpus, tmp_path, mesh
):
    config = tiny(accumulate=1)
    pretrain(config, corpus, tmp_path / "one")
    many = dataclasses.replace(config, mesh=mesh)
    pretrain(many, corpus, tmp_path / "many")
    one, other = lines(tmp_path / "one"), lines(tmp_path / "many")
    assert [r["batch_sha256"] for r in one] == [r["batch_sha256"] for r in other]
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)

    pretrain(stopped(config, 6), corpus, tmp_path / "moved")
    pretrain(many, corpus, tmp_path / "moved")
    for a, b in zip(one, lines(tmp_path / "moved"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


@pytest.mark.long
def test_phases_share_the_optimiser_and_restart_the_rows(corpus, tmp_path):
    phases = (
        Phase(until=6, length=16, batch=16, predictions=3),
        Phase(until=12, length=32, batch=8, predictions=5, accumulate=2),
    )
    config = tiny(phases=phases)
    whole = pretrain(config, corpus, tmp_path / "whole")
    for stop in (4, 6, 7):
        pretrain(stopped(config, stop), corpus, tmp_path / "parts")
    assert pretrain(config, corpus, tmp_path / "parts").sha256 == whole.sha256
    rates = [record["learning_rate"] for record in lines(tmp_path / "whole")]
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


def test_static_draws_name_each_window_as_often_as_asked(corpus):
    from reference.sources import open_source

    source = open_source(
        corpus, split=0, length=32, layout="pairs", seed=3, stream="s", draws=2
    )
    rows = source.rows
    first = source.read(np.arange(rows * 4))
    names = {tuple(each) for each in first.row_key.tolist()}
    assert len(names) == 2 * rows


def test_init_takes_the_parameters_of_another_run(corpus, tmp_path):
    pretrain(tiny(), corpus, tmp_path / "old")
    fresh = pretrain(tiny(steps=1), corpus, tmp_path / "fresh")
    warm = pretrain(
        tiny(steps=1, init=str(tmp_path / "old")), corpus, tmp_path / "warm"
    )
    assert warm.sha256 != fresh.sha256
    assert lines(tmp_path / "warm")[0]["loss"] < lines(tmp_path / "fresh")[0]["loss"]


def state_of(output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith("state sha256"))


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_runs_end_as_uninterrupted_ones(tmp_path, corpus_directory, how):
    """SIGTERM saves and exits 75, SIGKILL exits at once: the same command goes on."""
    changes = {"steps": 150, "save_every": 15, "accumulate": 1}
    whole = subprocess.run(
        command(tmp_path, corpus_directory, tmp_path / "whole", **changes),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    killed = command(tmp_path, corpus_directory, tmp_path / "killed", **changes)
    process = subprocess.Popen(
        killed, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    saved = tmp_path / "killed" / "checkpoints" / "30"
    deadline = time.monotonic() + 120
    while not saved.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (75 if how == signal.SIGTERM else -signal.SIGKILL)
    again = subprocess.run(
        killed, env=environment(), capture_output=True, text=True, check=True
    )
    assert "resuming at step" in again.stdout + again.stderr
    assert state_of(again.stdout) == state_of(whole.stdout)
