"""`jaxlm plan` against another reader of the same programs, by another author."""

import dataclasses
import importlib.util

import pytest

from jaxlm.config import load_config
from jaxlm.plan import plan
from jaxlm.plan.program import read_program
from jaxlm.plan.topologies import open_topology

PROGRAMS = (
    ("bert_base", "v5e:16x16", {}),
    ("bert_base_modern", "v5e:16x16", {}),
    ("bert_base_modern", "v6e:16x16", {}),
    ("bert_large_modern", "v5e:16x16", {}),
    ("ernie1", "v5e:16x16", {}),
    # The other reader does not know the work of attention's kernels.
    ("gpt2_small", "v5e:16x16", {"batch": 512, "attention": "plain"}),
)


@pytest.fixture
def referee(shared):
    path = shared.parent / "pods" / "hlo.py"
    spec = importlib.util.spec_from_file_location("hlo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.tpu_compiler
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "topology", "flags"), PROGRAMS)
def test_bounds_agree(referee, tmp_path, monkeypatch, name, topology, flags):
    texts = []

    def read(text):
        texts.append(text)
        return read_program(text)

    monkeypatch.setattr(plan, "read_program", read)
    config = dataclasses.replace(load_config(name), **flags)
    found = plan.plan(config, open_topology(topology)).phases[0]
    (tmp_path / "program").write_text(texts[0])
    read_by_it = referee.analyse(str(tmp_path / "program"))
    times = referee.times(read_by_it, topology.partition(":")[0])
    network = times["collective"] + times["collective_latency"]
    assert found["flops"] == pytest.approx(read_by_it["flops"], rel=0.05)
    serial = times["compute"] + network
    assert found["step_seconds_serial"] == pytest.approx(serial, rel=0.05)
    hidden = max(times["compute"], network)
    assert found["step_seconds_hidden"] == pytest.approx(hidden, rel=0.05)
