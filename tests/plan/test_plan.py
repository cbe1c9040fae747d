"""`jaxlm plan`: steps of tiny recipes compiled for TPUs that are not here."""

import dataclasses
import importlib.util
import json
import math

import pytest

from jaxlm.cli import main
from jaxlm.config import load_config
from jaxlm.plan import plan, topologies
from jaxlm.plan.plan import Planned

TINY = """
    --model.vocab_size 600 --model.num_layers 3 --model.d_model 128 --model.num_heads 2
    --model.d_ff 256 --length 32 --batch 64 --steps 7200
""".split()  # noqa: SIM905


def planned(capsys, *argv: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main(["plan", *argv, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def refused(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(["plan", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_an_unknown_topology_names_others(capsys):
    assert "did you mean v5e:16x16?" in refused(
        capsys, "gpt2_tiny", "--topology", "v5e:16x16x1"
    )
    assert "such are v5e:2x4, " in refused(
        capsys, "gpt2_tiny", "--topology", "2xh100:8"
    )
    assert "sst2 is a recipe of jaxlm finetune" in refused(
        capsys, "sst2", "--topology", "v5e:2x4"
    )


@pytest.mark.parametrize(
    ("topology", "package"), [("v5e:2x4", "libtpu=="), ("h100:1", "jax-cuda12-plugin")]
)
def test_a_compiler_that_is_not_installed_is_said_with_pip(
    capsys, monkeypatch, topology, package
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(capsys, "gpt2_tiny", "--topology", topology)
    assert f"is not installed: pip install '{package}" in error


@pytest.mark.tpu_compiler
def test_a_plan_of_a_tpu(capsys):
    found = planned(capsys, "gpt2_tiny", "--topology", "v5e:2x4", *TINY)
    assert found["chips"] == 8 and found["rows_per_chip"] == 8 and found["fits"]
    assert found["memory_bytes"] < found["memory_limit_bytes"] == 15.75 * 2**30
    assert sum(found["memory"].values()) == found["memory_bytes"]
    # No layer is recomputed. Attention's products count each pair of positions.
    assert found["flops"] == pytest.approx(found["model_flops"], rel=0.02)
    assert 0 < found["step_seconds_hidden"] <= found["step_seconds_serial"]
    assert 0 < found["mfu_serial"] <= found["mfu_hidden"] < 1
    sizes = found["collectives"].values()
    moved = sum(each["bytes"] for each in sizes)
    assert moved >= 0.5 * found["memory"]["parameters"]  # the gradients, once
    hours = 7200 * found["step_seconds_serial"] / 3600
    assert math.isclose(found["hours_serial"], hours)


@pytest.mark.tpu_compiler
def test_what_does_not_fit_ends_with_status_3(capsys, monkeypatch):
    small = topologies._CHIPS["v5e"]._replace(memory=14e6)
    monkeypatch.setitem(topologies._CHIPS, "v5e", small)
    monkeypatch.setattr(plan, "_TRIED", 1)
    argv = ["gpt2_tiny", "--topology", "v5e:2x2", *TINY]
    found = planned(capsys, *argv, status=3)
    assert not found["fits"] and found["memory_bytes"] > 14e6
    assert [each["flags"] for each in found["advice"]] == ["--remat full"]


def advised(
    monkeypatch, state: float, rest: float, batch: int = 1024
) -> list[tuple[str, bool]]:
    """What is tried on 8 chips of 16 GB if activations shrink with micro-batches."""
    chip = topologies._CHIPS["v5e"]._replace(memory=16e9)
    machine = topologies.Topology("", [None] * 8, chip, 1.0, 1.0)
    config = dataclasses.replace(load_config("bert_base_modern"), batch=batch)

    def plan_of(config, machine):
        share = 0.5 if config.remat == "full" else 1.0
        held = int(state / config.mesh.fsdp)
        needed = held + rest * share / config.all_phases[0].accumulate
        return Planned({"parameters": held}, needed, (None,) * (needed < 16e9))

    monkeypatch.setattr(plan, "plan", plan_of)
    found = plan.advise(config, machine, plan_of(config, machine))
    return [(each.flags, bool(each.found.phases)) for each in found]


def test_advice_ends_with_the_least_costly_settings_that_fit(monkeypatch):
    assert advised(monkeypatch, 2e9, 25e9) == [("--remat full", True)]
    assert advised(monkeypatch, 2e9, 50e9) == [
        ("--remat full", False),
        ("--accumulate 4", True),
    ]
    # 1,536 rows: each chip has 192, which 3 divides.
    assert advised(monkeypatch, 2e9, 40e9, 1536)[1] == ("--accumulate 3", True)
    cut = "--mesh.data 1 --mesh.fsdp 8"
    assert advised(monkeypatch, 24e9, 40e9) == [
        (cut, False),
        (f"--remat full {cut}", False),
        (f"--accumulate 4 {cut}", True),
    ]
