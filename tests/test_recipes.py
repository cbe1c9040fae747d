"""Every shipped recipe: published sizes, total rules, and a pod it lowers for."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxlm.config import load_config
from jaxlm.config.files import recipes
from jaxlm.models.bert import Bert
from jaxlm.objectives import masked_lm
from jaxlm.sharding import abstract_mesh, batch_sharding
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import abstract_params, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.types import MlmBatch, SpecialTokens

# google-research/bert's checkpoints, counted: encoder, pooler and both heads.
PUBLISHED = {"bert_base": 110_106_428, "bert_large": 336_226_108}


def count(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes(name):
    assert count(abstract_params(Bert(load_config(name).model))) == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_says_paper_cost_and_command(name):
    docstring = recipes()[name].read_text().split('"""')[1]
    assert "Cost:" in docstring
    assert f"jaxlm pretrain {name} " in docstring
    assert "Paper:" in docstring or "arXiv" in docstring


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_lowers_for_256_devices(name):
    """All phases, on a mesh of machines that are not here, with no device touched."""
    config = load_config(name)
    mesh = abstract_mesh(config.mesh, 256)
    module = Bert(config.model, jnp.dtype(config.precision), config.remat)
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(module)
    )
    _, state = abstract_state(module, optimizer, mesh, seed=0)
    special = SpecialTokens(0, 1, 2, 3, 4, config.model.vocab_size)
    for phase in config.stretches:
        objective = masked_lm(
            module, config.model, config.data, phase, special, seed=0, stream="s"
        )
        step = make_train_step(
            objective,
            optimizer,
            schedule,
            accumulate=phase.accumulate,
            seed=0,
            dropout=config.model.dropout > 0,
        )
        # The small recipes have fewer rows than the pod has devices.
        rows = max(phase.batch, 256 * phase.accumulate)
        lowered = (
            jax.jit(step, donate_argnums=0)
            .trace(state, batch_of(rows, phase.length, phase.predictions, mesh))
            .lower(lowering_platforms=("tpu",))
        )
        assert f"num_partitions = {256}" in lowered.as_text()


def batch_of(rows, length, predictions, mesh) -> MlmBatch:
    sharding = batch_sharding(mesh)

    def field(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    return MlmBatch(
        tokens=field(jnp.int32, length),
        token_types=field(jnp.int32, length),
        mask=field(jnp.bool_, length),
        positions=field(jnp.int32, predictions),
        targets=field(jnp.int32, predictions),
        weights=field(jnp.float32, predictions),
        nsp_labels=field(jnp.int32),
        nsp_weights=field(jnp.float32),
    )
