"""What the compiler makes of a step on 8 devices: no array is gathered by surprise."""

import dataclasses
import re
from typing import Any

import jax
import pytest
from test_recipes import batch_of, manifest

from jaxlm import sharding
from jaxlm.config import MeshConfig, load_config
from jaxlm.families import build, family_of
from jaxlm.sharding import make_mesh
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import abstract_params, abstract_state
from jaxlm.train.step import make_train_step

RECIPES = "bert_tiny", "gpt2_tiny"


@pytest.fixture(autouse=True)
def no_cache():
    """A program from the cache gives no warnings."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def compiled(name: str, mesh_config: MeshConfig, optim: Any = None) -> str:
    """The program of a step of a small model."""
    config = load_config(name)
    optim = dataclasses.replace(config.optim, name=optim or config.optim.name)
    small: Any = {"vocab_size": 250, "num_layers": 2, "d_model": 32, "d_ff": 64}
    model = dataclasses.replace(config.model, **small)
    config = dataclasses.replace(config, model=model, length=16, batch=16, phases=())
    module, mesh, phase = build(model), make_mesh(mesh_config), config.all_phases[0]
    made = make_optimizer(optim, 10, abstract_params(module))
    objective = family_of(model).objective(config, module, manifest(config), phase, "s")
    step = make_train_step(objective, *made, accumulate=1, dropout=False)
    with jax.set_mesh(mesh):
        _, state = abstract_state(module, made[0], mesh, seed=0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        batch = batch_of(objective, 16, 16, mesh)
        return step.lower(state, batch, 0).compile().as_text()


@pytest.mark.devices
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=2, fsdp=4), MeshConfig(data=2, fsdp=2, tensor=2)]
)
def test_no_array_is_replicated_to_change_how_it_is_cut(name, mesh, capfd):
    compiled(name, mesh)
    assert "full rematerialization" not in capfd.readouterr().err


@pytest.mark.devices
@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_of_the_token_table_is_exchanged_once(name):
    text = compiled(name, MeshConfig(data=8))
    sums = " ".join(line for line in text.splitlines() if " all-reduce(" in line)
    made = re.sub(r"all-reduce\(.*?\)", "", sums)  # without the operands
    assert len(re.findall(r"f32\[(?:1,)?2\d\d,32\]", made)) == 1


@pytest.mark.devices
@pytest.mark.parametrize(
    "name, mesh",
    [("bert_tiny", MeshConfig(data=8)), ("gpt2_tiny", MeshConfig(data=4, fsdp=2))],
)
def test_muon_orthogonalises_matrices_that_are_whole_on_a_device(
    name, mesh, monkeypatch, capfd
):
    """Collectives move matrices before and after, and none is in the iterations."""
    monkeypatch.setattr(sharding, "_SMALL", 64)
    text = compiled(name, mesh, optim="muon")
    assert "full rematerialization" not in capfd.readouterr().err
    inside = [line for line in text.splitlines() if "newton_schulz" in line]
    assert any(" dot(" in line or "matmul" in line for line in inside)
    moves = r" (all-\w+|reduce-scatter|collective-permute)(-start)?\("
    assert not [line for line in inside if re.search(moves, line)]
    # One or two matrices of each shape on each of the 8 devices, and not all of them.
    shapes = re.findall(r"f32\[(\d+),32,(?:32|64)\]", " ".join(inside))
    assert shapes and max(map(int, shapes)) <= 2
