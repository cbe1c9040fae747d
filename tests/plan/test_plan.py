"""`jaxlm plan`: steps of tiny recipes compiled for TPUs that are not here."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest

from jaxlm.cli import main
from jaxlm.config import MeshConfig, RunConfig, load_config
from jaxlm.plan import plan, topologies
from jaxlm.plan.plan import Planned
from jaxlm.sharding import make_mesh
from jaxlm.xla import check_options, xla_options

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
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_plan_of_two_slices(capsys, accumulate):
    """Each chip exchanges its part of the gradients over the data centre's network,
    once a step."""
    argv = ["gpt2_tiny", "--topology", "2xv5e:2x2", "--accumulate", str(accumulate)]
    found = planned(capsys, *argv, *TINY)
    assert found["slices"] == 2
    kinds = found["collectives"]
    sent = kinds["all-reduce between slices"]
    part = found["memory"]["parameters"]  # of a chip's quarter, in float32
    part /= 2 if accumulate == 1 else 1  # one micro-batch's are in bfloat16
    assert sent["bytes"] == pytest.approx(part, rel=0.1)
    inside = sum(x["seconds"] for x in kinds.values()) - sent["seconds"]
    hidden = max(found["compute_seconds"], inside, sent["seconds"])
    assert found["step_seconds_hidden"] == pytest.approx(hidden)
    assert not found["unknown_kernels"]


@pytest.mark.tpu_compiler
def test_what_does_not_fit_ends_with_status_3(capsys, monkeypatch):
    small = topologies._CHIPS["v5e"]._replace(memory=14e6)
    monkeypatch.setitem(topologies._CHIPS, "v5e", small)
    monkeypatch.setattr(plan, "_TRIED", 1)
    argv = ["gpt2_tiny", "--topology", "v5e:2x2", *TINY]
    assert main(["plan", *argv, "--advice"]) == 3
    said = capsys.readouterr().out.splitlines()
    assert "on v5e:2x2 does not fit: a chip needs at least 0.02 of 0.01 GB" in said[0]
    assert said[2] == "compiled: --remat full" and len(said) == 4
    assert said[3].startswith("  0.01 of 0.01 GB, ")

    # A state that is too large is not compiled, nor is advice that nobody asked for.
    tiny = small._replace(memory=1e6)
    monkeypatch.setitem(topologies._CHIPS, "v5e", tiny)
    monkeypatch.setattr(plan, "lower_step", None)
    found = planned(capsys, *argv, status=3)
    assert not found["fits"] and found["advice"] == []
    assert found["memory_bytes"] == sum(found["memory"].values()) > 1e6


SHOWN = (
    "flops model_flops hbm_bytes scaling compute_seconds collective_seconds mfu_serial "
    "mfu_hidden step_seconds_scheduled tokens_per_second_serial "
    "tokens_per_second_hidden"
)


def faked(monkeypatch, seconds: dict[str, float | None]) -> None:
    """Steps take so long by topology, with no collectives; None: they do not fit."""

    def open_topology(name):
        chips = [None] * 16 if name.endswith("4x4") else [None] * 256
        return topologies.Topology(name, chips, topologies._CHIPS["v5e"], 1e12, 1.0)

    def plan_of(config, machine):
        if (each := seconds[machine.name]) is None:
            return Planned({"parameters": int(20e9)}, 20e9)
        facts = dict.fromkeys(SHOWN.split(), 0.5)
        facts |= {"step_seconds_serial": each, "step_seconds_hidden": each / 2}
        facts |= {"length": 8, "batch": 256, "accumulate": 1, "rows_per_chip": 1}
        facts |= {"collectives": {}, "compute_seconds_by": {"matrix": 1.0}}
        facts |= {"memory": {"parameters": 1}, "memory_bytes": 1, "steps": 10}
        facts |= {"bound": "matrix", "unknown_kernels": []}
        return Planned({"parameters": 1}, 1, (facts,))

    monkeypatch.setattr(topologies, "open_topology", open_topology)
    monkeypatch.setattr(plan, "plan", plan_of)


def test_several_topologies_are_compared_with_the_first(capsys, monkeypatch):
    faked(monkeypatch, {"v5e:4x4": 1.0, "v5e:16x16": 0.08})
    argv = ["gpt2_small", "--topology", "v5e:4x4", "v5e:16x16"]
    one, other = planned(capsys, *argv)
    assert "efficiency_serial" not in one and other["efficiency_from"] == "v5e:4x4"
    assert other["efficiency_serial"] == pytest.approx(1 / 16 / 0.08)
    assert main(["plan", *argv]) == 0
    said = capsys.readouterr().out
    assert "speed of a chip: 78% to 78% of v5e:4x4's" in said
    assert max(map(len, said.splitlines())) <= 80


def test_advice_that_was_not_asked_for_is_named(capsys, monkeypatch):
    faked(monkeypatch, {"v5e:4x4": None, "v5e:16x16": 0.08})
    argv = ["gpt2_small", "--topology", "v5e:4x4", "v5e:16x16"]
    assert main(["plan", *argv]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("needs at least 20.00 of 16.91 GB")
    assert said[1:3] == ["  parameters 20.00 GB", "--advice compiles what may fit:"]
    assert said[3] == "  --mesh.data 1 --mesh.fsdp 16"
    assert max(map(len, said)) <= 80


def small(needed: float) -> tuple[topologies.Topology, Planned]:
    """Eight chips of 16 GB, and a plan of so many bytes on one."""
    chip = topologies._CHIPS["v5e"]._replace(memory=16e9)
    machine = topologies.Topology("", [None] * 8, chip, 1.0, 1.0)
    return machine, Planned({}, needed, ({},) * (needed < 16e9))


def advised(
    monkeypatch, state: float, rest: float, batch: int = 1024
) -> list[tuple[str, bool]]:
    """What is tried on 8 chips of 16 GB if activations shrink with micro-batches."""
    machine, _ = small(0)
    config = dataclasses.replace(load_config("bert_base_modern"), batch=batch)

    def plan_of(config, machine):
        share = 0.5 if config.remat == "full" else 1.0
        held = int(state / config.mesh.fsdp)
        needed = held + rest * share / config.all_phases[0].accumulate
        return small(needed)[1]._replace(memory={"parameters": held})

    monkeypatch.setattr(plan, "plan", plan_of)
    found = plan.advise(config, machine, plan_of(config, machine))
    return [(each.flags, bool(each.found.phases)) for each in found]


def test_advice_where_it_fits_is_what_may_be_faster(monkeypatch):
    found = advised(monkeypatch, 2e9, 1e9)
    assert found == [("--batch 2048", True)]
    assert not advised(monkeypatch, 2e9, 13e9)  # twice the rows would not fit
    config = dataclasses.replace(load_config("bert_base_modern"), batch=1024)
    config = dataclasses.replace(config, accumulate=4, remat="full")
    assert [flags for flags, _ in plan.candidates(config, *small(1e9))] == [
        "--remat none",
        "--accumulate 2",
        "--batch 2048",
    ]


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


@pytest.mark.tpu_compiler
def test_libtpu_knows_the_options_of_a_tpu(capsys):
    mesh = make_mesh(MeshConfig(), topologies.open_topology("v5e:2x4").devices)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        options = xla_options(RunConfig())
    assert options
    given = tuple(f"{name}={value}" for name, value in options.items())
    check_options(RunConfig(xla=given), mesh)
    said = refused(capsys, "gpt2_tiny", "--topology", "v5e:2x4", "--xla", "xla_no=1")
    assert "--xla xla_no=1: No such compile option: 'xla_no'" in said
