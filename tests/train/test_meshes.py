"""What the compiler makes of a step on 8 devices: no array is gathered by surprise."""

import dataclasses
import re
from typing import Any

import jax
import pytest
from test_recipes import batch_of, manifest

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


def compiled(name: str, mesh_config: MeshConfig) -> str:
    """The program of a step of a small model."""
    config = load_config(name)
    small: Any = {"vocab_size": 250, "num_layers": 2, "d_model": 32, "d_ff": 64}
    model = dataclasses.replace(config.model, **small)
    config = dataclasses.replace(config, model=model, length=16, batch=16, phases=())
    module, mesh, phase = build(model), make_mesh(mesh_config), config.all_phases[0]
    made = make_optimizer(config.optim, 10, abstract_params(module))
    objective = family_of(model).objective(config, module, manifest(config), phase, "s")
    step = make_train_step(objective, *made, accumulate=1, seed=0, dropout=False)
    with jax.set_mesh(mesh):
        _, state = abstract_state(module, made[0], mesh, seed=0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        batch = batch_of(objective, 16, 16, mesh)
        return step.lower(state, batch).compile().as_text()


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
