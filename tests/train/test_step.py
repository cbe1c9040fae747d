"""One update: cutting, skipping and sharding leave it what it is."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from reference.sources import open_source
from tiny import tiny

from jaxlm import sharding
from jaxlm.config import MaskedData, MeshConfig, OptimConfig
from jaxlm.families import build, family_of
from jaxlm.sharding import (
    batch_sharding,
    local_rows,
    make_mesh,
    param_shardings,
    to_devices,
)
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import abstract_params, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.tree import leaves
from jaxlm.types import UserError


def update(corpus, config, *, dropout, weigh=None, updates=1):
    """(state before, state after, metrics) of the first updates of a run."""
    mesh = make_mesh(config.mesh)
    phase = config.all_phases[0]
    module = build(config.model)
    optimizer, schedule = make_optimizer(config.optim, 100, abstract_params(module))
    by_rows = batch_sharding(mesh)
    with jax.set_mesh(mesh):
        make, _ = abstract_state(module, optimizer, mesh, seed=config.seed)
        objective = family_of(config.model).objective(
            config, module, corpus.manifest, phase, "train.0"
        )
        source = open_source(
            corpus,
            split=0,
            length=phase.length,
            layout=objective.layout,
            seed=config.seed,
            stream="train.0",
        )
        step = jax.jit(
            make_train_step(
                objective,
                optimizer,
                schedule,
                accumulate=phase.accumulate,
                dropout=dropout,
            )
        )
        before = state = make()
        for i in range(updates):
            rows = source.read(np.arange(phase.batch) + i * phase.batch)
            local = local_rows(by_rows, phase.batch)
            batch = jax.jit(objective.transform, out_shardings=by_rows)(
                to_devices(rows, local, by_rows, phase.batch)
            )
            if weigh is not None:
                batch = batch._replace(weights=batch.weights * weigh)
            state, metrics = step(state, batch, config.seed)
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


def test_accumulating_equals_one_step_of_the_whole_batch(corpus):
    """Also where micro-batches have 20, 20, 15 and 10 targets: no mean of means."""
    weigh = np.ones((16, 5), np.float32)
    weigh[[2, 3, 7]] = 0
    _, one, whole = update(corpus, tiny(accumulate=1), dropout=False, weigh=weigh)
    _, four, cut = update(corpus, tiny(accumulate=4), dropout=False, weigh=weigh)
    assert_close(moments(one), moments(four), 1e-5)
    assert float(whole["mlm_loss"].weight) == float(cut["mlm_loss"].weight) < 80
    for name in ("loss", "mlm_loss", "nsp_loss"):
        np.testing.assert_allclose(whole[name].total, cut[name].total, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gradient_that_is_not_finite_changes_nothing_but_the_counts(corpus, name):
    config = tiny(accumulate=1, optim=OptimConfig(name=name))
    nan = np.float32(np.nan)
    before, after, metrics = update(corpus, config, dropout=True, weigh=nan, updates=3)
    for a, b in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert int(after.step) == int(after.skipped) == int(metrics["skipped_in_row"]) == 3


def test_an_update_that_goes_too_far_changes_nothing_but_the_counts(corpus):
    """The gradients are finite, and so are the parameters that they would give."""
    config = tiny(accumulate=1, optim=OptimConfig(peak=1e5, warmup=0))
    before, after, metrics = update(corpus, config, dropout=True, updates=2)
    assert np.isfinite(metrics["grad_norm"])
    for a, b in zip(*map(jax.tree.leaves, (before[1:3], after[1:3])), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(after.step) == int(after.skipped_in_row) == 2


MESHES = (
    MeshConfig(data=8),
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(replica=2, data=1, fsdp=4),
)


@pytest.mark.devices
def test_every_mesh_makes_the_same_update(corpus):
    once = functools.partial(update, corpus, dropout=True, updates=2)
    _, one, here = once(tiny(accumulate=1))
    for mesh in MESHES:
        _, many, there = once(tiny(accumulate=1, mesh=mesh))
        for name in ("loss", "mlm_loss", "nsp_loss"):
            np.testing.assert_allclose(
                float(here[name].total), float(there[name].total), rtol=1e-6
            )
        assert_close(moments(one), moments(many), 1e-5)
        kernel = many.params["layers"]["mlp"]["wi"]["kernel"]
        shard = kernel.addressable_shards[0].data.shape
        assert shard == (2, 16 // mesh.fsdp, 32 // mesh.tensor)


def mixed(**changes):
    """A config with as many causal rows as masked ones, and dropout."""
    model = dataclasses.replace(tiny().model, nsp=False)
    return tiny(model=model, data=MaskedData(causal_share=0.5), **changes)


@pytest.mark.long
def test_accumulating_rows_of_two_kinds_equals_one_step(corpus):
    once = functools.partial(update, corpus, dropout=False)
    _, one, whole = once(mixed(accumulate=1))
    _, four, cut = once(mixed(accumulate=4))
    assert_close(moments(one), moments(four), 1e-5)
    for name in ("loss", "mlm_loss", "lm_loss"):
        np.testing.assert_allclose(whole[name].total, cut[name].total, rtol=1e-6)


@pytest.mark.devices
def test_every_mesh_makes_the_same_update_of_rows_of_two_kinds(corpus):
    once = functools.partial(update, corpus, dropout=True, updates=2)
    _, one, here = once(mixed(accumulate=1))
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    _, many, there = once(mixed(accumulate=1, mesh=mesh))
    for name in ("loss", "mlm_loss", "lm_loss"):
        np.testing.assert_allclose(
            float(here[name].total), float(there[name].total), rtol=1e-6
        )
    assert_close(moments(one), moments(many), 1e-5)


OPTIMIZERS = {
    "adamw": {"clip": 0.01, "eps": 1e-3},
    "bert_adam": {"clip": 0.01, "eps": 1e-3},
    "lamb": {"clip": 0.01, "eps": 1e-3},
    "adagrad": {"weight_decay": 0.0},
    "muon": {"clip": 0.01, "eps": 1e-3},
}


@pytest.mark.devices
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_cut_over_the_data_axis_is_updated_as_a_whole_one(
    corpus, monkeypatch, name
):
    """Norms of clipping and of LAMB are those of whole tensors; warm-up is none."""
    monkeypatch.setattr(sharding, "_SMALL", 64)
    optim = OptimConfig(name=name, peak=0.01, warmup=0, **OPTIMIZERS[name])
    once = functools.partial(update, corpus, dropout=False, updates=2)
    _, one, here = once(tiny(accumulate=1, optim=optim))
    for mesh in (MeshConfig(data=8), MeshConfig(data=4, fsdp=2)):
        _, many, there = once(tiny(accumulate=1, optim=optim, mesh=mesh))
        assert_close((one.params, one.opt_state), (many.params, many.opt_state), 2e-4)
        np.testing.assert_allclose(here["grad_norm"], there["grad_norm"], rtol=1e-5)
        for tree in (many.params, many.opt_state):
            kernels = [x for path, x in leaves(tree) if path.endswith("wi/kernel")]
            assert kernels
            for each in kernels:
                assert each.addressable_shards[0].data.size == each.size // 8


def test_a_leaf_that_an_axis_does_not_divide_is_cut_elsewhere_or_an_error(monkeypatch):
    monkeypatch.setattr(sharding, "_SMALL", 64)

    def cut(shape, **sizes):
        mesh = sharding.abstract_mesh(MeshConfig(**{"data": 1, **sizes}), 8)
        kernel = jax.ShapeDtypeStruct((2, *shape), np.float32)
        tree = {"layers": {"mlp": {"wi": {"kernel": kernel}}}}
        found = param_shardings(mesh, tree)["layers"]["mlp"]["wi"]["kernel"].spec
        return tuple(found)

    assert cut((16, 24), tensor=8) == (None, None, "tensor")
    assert cut((16, 12), tensor=8) == (None, "tensor", None)
    assert cut((16, 12), data=8) == (None, "data", None)
    assert cut((12, 16), data=2, fsdp=4)[2] == "data"
    assert cut((9, 9), data=8) == (None, None, None)
    with pytest.raises(
        UserError, match=r"mesh.tensor = 8 .*layers/mlp/wi/kernel.*9, 9"
    ):
        cut((9, 9), tensor=8)


def test_dropout_differs_between_steps_and_micro_batches(corpus):
    """Were one mask shared by the micro-batches, equal halves would give equal sums."""
    config = tiny(accumulate=1)
    _, state, _ = update(corpus, config, dropout=True)
    _, other, _ = update(corpus, tiny(accumulate=2), dropout=True)
    a, b = jax.tree.leaves(moments(state)), jax.tree.leaves(moments(other))
    assert any(
        np.abs(x - y).max() > 1e-4 * np.abs(x).max() for x, y in zip(a, b, strict=True)
    )
