"""One update: cutting, skipping and sharding leave it what it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

from jaxlm.config import MeshConfig
from jaxlm.data.device import local_rows, to_devices
from jaxlm.data.pipeline import open_source, read_rows
from jaxlm.models.bert import Bert
from jaxlm.objectives import masked_lm
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import abstract_params, abstract_state
from jaxlm.train.step import make_train_step


def update(corpus, config, *, dropout, poison=False, updates=1):
    """(state before, state after, metrics) of the first updates of a run."""
    mesh = make_mesh(config.mesh)
    phase = config.stretches[0]
    module = Bert(config.model)
    optimizer, schedule = make_optimizer(config.optim, 100, abstract_params(module))
    sharding = batch_sharding(mesh)
    with jax.set_mesh(mesh):
        make, _ = abstract_state(module, optimizer, mesh, seed=config.seed)
        objective = masked_lm(
            module,
            config.model,
            config.data,
            phase,
            corpus.special,
            seed=config.seed,
            stream="train.0",
        )
        source = open_source(
            corpus,
            split=0,
            length=phase.length,
            pairs=config.model.nsp,
            seed=config.seed,
            stream="train.0",
        )
        step = jax.jit(
            make_train_step(
                objective,
                optimizer,
                schedule,
                accumulate=phase.accumulate,
                seed=config.seed,
                dropout=dropout,
            )
        )
        before = state = make()
        for i in range(updates):
            rows = read_rows(source, np.arange(phase.batch) + i * phase.batch)
            local = local_rows(sharding, phase.batch)
            batch = jax.jit(objective.transform, out_shardings=sharding)(
                to_devices(rows, local, sharding, phase.batch)
            )
            if poison:
                batch = batch._replace(weights=batch.weights * jnp.nan)
            state, metrics = step(state, batch)
    return before, state, metrics


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        scale = max(np.abs(x).max(), 1e-8)  # the gradient of key biases is 0
        assert np.abs(x - y).max() / scale < tolerance


def moments(state):
    """The first moments: at the first update, the gradient times 1 - β₁."""
    adam = next(s for s in state.opt_state if hasattr(s, "mu"))
    return adam.mu


@pytest.mark.parametrize("nsp", [True, False])
def test_accumulating_equals_one_step_of_the_whole_batch(corpus, nsp):
    model = dataclasses.replace(tiny().model, nsp=nsp)
    states, losses = [], []
    for accumulate in (1, 2, 8):
        config = tiny(model=model, accumulate=accumulate)
        _, state, metrics = update(corpus, config, dropout=False)
        states.append(moments(state))
        losses.append(float(metrics["loss"].total))
    assert_close(states[0], states[1], 1e-5)
    assert_close(states[0], states[2], 1e-5)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_mean_of_micro_batch_means_would_be_another_gradient(corpus):
    """The premise of sums and counts: micro-batches have unequal numbers of targets."""
    config = tiny()
    source = open_source(
        corpus, split=0, length=32, pairs=True, seed=3, stream="train.0"
    )
    objective = masked_lm(
        Bert(config.model),
        config.model,
        config.data,
        config.stretches[0],
        corpus.special,
        seed=3,
        stream="train.0",
    )
    weights = jax.jit(objective.transform)(read_rows(source, np.arange(16))).weights
    assert weights[0::2].sum() != weights[1::2].sum()


def test_gradient_that_is_not_finite_changes_nothing_but_the_counts(corpus):
    before, after, metrics = update(
        corpus, tiny(accumulate=1), dropout=True, poison=True, updates=3
    )
    for a, b in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert int(after.step) == int(after.skipped) == int(metrics["skipped_in_row"]) == 3


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8),
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(replica=2, data=1, fsdp=4),
    ],
)
def test_every_mesh_makes_the_same_update(corpus, mesh):
    once = functools.partial(update, corpus, dropout=True, updates=2)
    _, one, here = once(tiny(accumulate=1))
    _, many, there = once(tiny(accumulate=1, mesh=mesh))
    for name in ("loss", "mlm_loss", "nsp_loss"):
        np.testing.assert_allclose(
            float(here[name].total), float(there[name].total), rtol=1e-6
        )
    assert_close(moments(one), moments(many), 1e-5)
    kernel = many.params["layers"]["mlp"]["wi"]["kernel"]
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (2, 16 // mesh.fsdp, 32 // mesh.tensor)


def test_dropout_differs_between_steps_and_micro_batches(corpus):
    """Were one mask shared by the micro-batches, equal halves would give equal sums."""
    config = tiny(accumulate=1)
    _, state, _ = update(corpus, config, dropout=True)
    _, other, _ = update(corpus, tiny(accumulate=2), dropout=True)
    a, b = jax.tree.leaves(moments(state)), jax.tree.leaves(moments(other))
    assert any(
        np.abs(x - y).max() > 1e-4 * np.abs(x).max() for x, y in zip(a, b, strict=True)
    )
