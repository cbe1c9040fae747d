"""Every shipped recipe: its published size, its docstring, and a step for 256 chips."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxlm.config import FinetuneConfig, TaskConfig, load_config
from jaxlm.config.files import recipes
from jaxlm.data.layouts import rows_of_zeros
from jaxlm.families import build, family_of, num_parameters
from jaxlm.models.kernels import fused
from jaxlm.sharding import RULES, abstract_mesh, batch_sharding
from jaxlm.tasks.model import TaskModel
from jaxlm.text.corpus import Manifest
from jaxlm.train.optim import make_optimizer
from jaxlm.train.source import attention_line
from jaxlm.train.state import abstract_params, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.tree import leaves

# google-research/bert's checkpoints, counted: encoder, pooler and both heads.
# allenai/bilm-tf: its biLM and its softmax.
# openai/gpt-2 and openai/finetune-transformer-lm, from their shapes.
PUBLISHED = {
    "bert_base": 110_106_428,
    "bert_large": 336_226_108,
    "bert_base_chinese": 102_882_442,
    "bert_wwm_chinese": 102_882_442,
    "mbert": 178_566_653,
    "elmo_original": 93_600_848 + 407_050_623,
    # PaddlePaddle/ERNIE: encoder and pooler, and both heads.
    "ernie1": 99_866_112 + 611_666,
    "gpt1": 116_534_784,
    "gpt2_small": 124_439_808,
    "gpt2_small_muon": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
}


TASKS = sorted(n for n in recipes() if isinstance(load_config(n), FinetuneConfig))
ROADS = sorted(recipes().keys() - TASKS)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes(name):
    assert load_config(name).model.num_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", ROADS)
def test_sizes_that_are_computed_are_those_of_the_modules(name):
    config = load_config(name).model
    counted = num_parameters(abstract_params(build(config)), config)
    assert config.num_parameters == counted


def test_mbert_s_languages_are_those_of_the_published_list():
    """102 names and two more of the cased release; Chinese counts once for each script.

    The cased, recommended model: no case is folded, and 119,547 pieces.
    """
    config = load_config("mbert")
    assert len(set(config.text.languages)) == len(config.text.languages) == 104 - 1
    assert {"th", "mn", "zh", "pnb", "nds", "vo"} <= set(config.text.languages)
    assert not config.text.lowercase and config.smoothing == 0.7
    assert config.data.second == "any"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_says_paper_cost_and_command(name):
    docstring = recipes()[name].read_text().split('"""')[1]
    assert "Cost:" in docstring
    verb = "finetune" if name in TASKS else "pretrain"
    assert f"jaxlm {verb} {name} " in docstring
    assert "Paper:" in docstring or "arXiv" in docstring


@pytest.mark.parametrize("name", ROADS)
def test_every_recipe_lowers_for_256_devices(name):
    """All phases, on an abstract mesh: no device is used."""
    config = load_config(name)
    mesh = abstract_mesh(config.mesh, 256)
    family = family_of(config.model)
    module = build(config.model, dtype=jnp.dtype(config.precision), remat=config.remat)
    optimizer, schedule = make_optimizer(
        config.optim, config.steps, abstract_params(module)
    )
    _, state = abstract_state(
        module,
        optimizer,
        mesh,
        seed=0,
        zero_carry=lambda: family.zero_carry(
            config.model, rows_for_pod(config.all_phases[0])
        ),
    )
    for phase in config.all_phases:
        objective = family.objective(config, module, manifest(config), phase, "s")
        step = make_train_step(
            objective,
            optimizer,
            schedule,
            accumulate=phase.accumulate,
            dropout=config.model.dropout > 0,
        )
        rows = rows_for_pod(phase)
        lowered = (
            jax.jit(step, donate_argnums=0)
            .trace(state, batch_of(objective, rows, phase.length, mesh), 0)
            .lower(lowering_platforms=("tpu",))
        )
        assert f"num_partitions = {256}" in lowered.as_text()


def rows_for_pod(phase):
    """The batch size, rounded up to a multiple of 256 rows in each micro-batch."""
    return 256 * phase.accumulate * -(-phase.batch // (256 * phase.accumulate))


@pytest.mark.parametrize(
    ("name", "platform", "line"),
    [
        ("gpt2_small", "cpu", ""),
        ("gpt2_small", "tpu", "splash, one kernel, without scores in memory"),
        ("gpt2_small", "gpu", "cudnn, one kernel, without scores in memory"),
        ("bert_base", "tpu", "plain, splash has no dropout"),
        ("bert_base_modern", "tpu", "plain, which is faster in rows of 128 tokens"),
        ("bert_tiny", "tpu", "plain, rows of 64 tokens are shorter than splash's"),
        ("bert_tiny", "gpu", "plain, cudnn has no float32"),
        ("elmo_original", "tpu", ""),
    ],
)
def test_a_run_says_which_attention_its_step_has(name, platform, line, monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: platform)
    config = load_config(name)
    phase, dropout = config.all_phases[0], config.model.dropout > 0
    shape = phase.batch, phase.length
    found = attention_line(config, None, shape, dropout=dropout)
    assert found.startswith(f"attention: {line}") if line else not found


manifest = Manifest.empty


def batch_of(objective, rows, length, mesh):
    """The shapes of a sharded batch, as the transform makes it."""
    read = rows_of_zeros(objective.layout, rows, length)
    return jax.tree.map(
        lambda leaf: leaf.update(sharding=batch_sharding(mesh)),
        jax.eval_shape(objective.transform, read),
    )


def test_every_sharding_rule_has_a_parameter_of_some_recipe():
    paths = [
        path
        for name in ROADS
        for path, _ in leaves(abstract_params(build(load_config(name).model)))
    ]
    task = TaskModel(load_config("bert_base").model, TaskConfig(), 2, "pooler")
    paths += [path for path, _ in leaves(abstract_params(task))]
    elmo = load_config("elmo_tiny").model
    fields = TaskConfig(mix="both", body="bilstm", depth=2, pooling="attention")
    task = TaskModel(elmo, fields, 2, "attention")
    paths += [path for path, _ in leaves(abstract_params(task))]
    unused = [r for r, _ in RULES if not any(re.fullmatch(r, path) for path in paths)]
    assert not unused
