"""An ELMo's update: the carried state, sampled words, and only the rows they touch."""

from __future__ import annotations

import dataclasses
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import BilmData, MeshConfig, OptimConfig, RunConfig, elmo
from jaxlm.families import ELMO, build
from jaxlm.models.elmo import head_rows, zero_state
from jaxlm.objectives.bidirectional import bidirectional_lm
from jaxlm.sharding import batch_sharding, make_mesh
from jaxlm.text.corpus import Manifest
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import TrainState, abstract_state
from jaxlm.train.step import make_train_step
from jaxlm.tree import leaves
from jaxlm.types import ElmoBatch

B, L = 4, 6
MODEL = elmo(
    "tiny",
    vocab_size=300,
    d_model=6,
    d_ff=8,
    d_character=4,
    max_characters=7,
    filters=(4, 6),
    dropout=0.0,
)
ADAGRAD = OptimConfig(
    name="adagrad",
    peak=0.2,
    warmup=0,
    decay="constant",
    weight_decay=0.0,
    clip=10.0,
    factor=20.0,
)


def batch_of(seed: int, rows: int = B) -> ElmoBatch:
    random = np.random.default_rng(seed)
    shape = rows, 2, L
    return ElmoBatch(
        characters=jnp.asarray(random.integers(1, 262, (*shape, 7)), jnp.uint16),
        targets=jnp.asarray(random.integers(0, 300, shape), jnp.int32),
        weights=jnp.ones(shape),
    )


def objective_of(model, data: BilmData, *, few_rows: bool):
    """As for an optimiser that leaves rows without a gradient as they are, or not."""
    optim = dataclasses.replace(ADAGRAD, weight_decay=0.0 if few_rows else 0.1)
    run = RunConfig(model=model, data=data, optim=optim)
    phase = run.all_phases[0]
    return bidirectional_lm(run, build(model), Mock(Manifest), phase, "train.0")


def states_of(
    steps: int, *, negatives=20, few_rows=None, accumulate=1, spoil=None, optim=ADAGRAD
) -> list[TrainState]:
    """The state before each of `steps` updates, and after the last."""
    data = BilmData(negatives=negatives)
    config = RunConfig(model=MODEL, optim=optim, data=data)
    module, phase = build(MODEL), config.all_phases[0]
    objective = ELMO.objective(config, module, Mock(Manifest), phase, "train.0")
    if few_rows is not None:
        objective = objective_of(MODEL, data, few_rows=few_rows)
    mesh = make_mesh(dataclasses.replace(config.mesh, data=1))
    with jax.set_mesh(mesh):
        params = jax.eval_shape(
            lambda: module.init(jax.random.key(0), *module.example())
        )
        optimizer, schedule = make_optimizer(config.optim, 100, params["params"])
        make, _ = abstract_state(
            module, optimizer, mesh, seed=3, zero_carry=lambda: zero_state(MODEL, B)
        )
        step = jax.jit(
            make_train_step(
                objective,
                optimizer,
                schedule,
                accumulate=accumulate,
                dropout=False,
            )
        )
        states = [make()]
        for i in range(steps):
            batch = batch_of(i)
            if i == spoil:
                batch = batch._replace(weights=batch.weights * jnp.inf)
            states.append(step(states[-1], batch, 3)[0])
    return states


def close(a, b, tolerance):
    for (path, x), (_, y) in zip(leaves(a), leaves(b), strict=True):
        error = np.abs(np.asarray(x) - np.asarray(y)).max(initial=0)
        assert error <= tolerance, (path, error)


@pytest.mark.parametrize("name", ["adagrad", "adamw"])
@pytest.mark.long
def test_rows_that_decay_or_have_momentum_are_updated_too(name):
    """They change without a gradient, so updating the sampled rows is not enough."""
    optim = dataclasses.replace(ADAGRAD, name=name, peak=0.02, weight_decay=0.1)
    ours = states_of(3, optim=optim)[-1]
    close(ours.params, states_of(3, few_rows=False, optim=optim)[-1].params, 1e-6)
    partly = states_of(3, few_rows=True, optim=optim)[-1]
    with pytest.raises(AssertionError):
        close(ours.params, partly.params, 1e-5)


def test_updating_the_sampled_rows_is_updating_all_of_them():
    few, every = states_of(4, few_rows=True)[-1], states_of(4, few_rows=False)[-1]
    close(few, every, 1e-6)
    tables = dict(leaves(few.params))
    start = dict(leaves(states_of(0)[0].params))
    moved = np.any(tables["softmax/table"] != start["softmax/table"], axis=1)
    # 4 steps of at most 2 × 20 words drawn and 48 targets.
    assert 60 < moved[:300].sum() < 300 and not moved[300:].any()
    accumulators = dict(leaves(few.opt_state))
    name = next(path for path in accumulators if path.endswith("softmax/table"))
    changed = np.any(np.asarray(accumulators[name]) != 1.0, axis=1)
    np.testing.assert_array_equal(changed, moved)


def test_no_gradient_is_as_large_as_the_table():
    module = build(MODEL)
    big = dataclasses.replace(MODEL, vocab_size=5000)
    objective = objective_of(big, BilmData(negatives=20), few_rows=True)
    params = jax.eval_shape(
        lambda: build(big).init(jax.random.key(0), *module.example())["params"]
    )
    optimizer, schedule = make_optimizer(ADAGRAD, 100, params)
    mesh = make_mesh(RunConfig().mesh)
    _, state = abstract_state(
        build(big), optimizer, mesh, seed=3, zero_carry=lambda: zero_state(big, 8)
    )
    step = make_train_step(objective, optimizer, schedule, accumulate=1, dropout=False)
    jaxpr = jax.make_jaxpr(step)(state, batch_of(0, 8), 3).jaxpr
    shape = head_rows(big), big.d_model
    made = [
        e.primitive.name
        for e in jaxpr.eqns
        if any(getattr(v.aval, "shape", ()) == shape for v in e.outvars)
    ]
    # Parameters and accumulators with their rows put back; nothing is computed on them.
    assert made == ["scatter", "scatter"], made


def test_the_state_goes_on_and_is_kept_where_a_step_is_skipped():
    states = states_of(3, spoil=1)
    assert [int(s.skipped) for s in states] == [0, 0, 1, 1]
    assert not np.asarray(states[0].carry.cell).any()
    assert np.asarray(states[1].carry.cell).any()
    close(states[2].carry, states[1].carry, 0)
    close(states[2].params, states[1].params, 0)
    assert (np.asarray(states[3].carry.out) != np.asarray(states[2].carry.out)).any()


def test_the_carry_is_what_the_model_read():
    states = states_of(2)
    first, second = states[0], states[1]
    module = build(MODEL)
    batch = batch_of(1)
    characters = batch.characters.swapaxes(0, 1)
    out = module.apply(
        {"params": second.params}, characters, second.carry, method="read"
    )
    close(out.state, states[2].carry, 1e-6)
    afresh = module.apply({"params": second.params}, characters, method="read")
    assert np.abs(afresh.state.out - out.state.out).max() > 1e-4
    assert np.asarray(first.carry.out).shape == (B, 2, 2, 6)


def test_without_carry_rows_stand_alone_and_padding_is_not_read():
    module = build(MODEL)
    params = module.init(jax.random.key(0), *module.example())["params"]
    objective = objective_of(MODEL, BilmData(carry=False), few_rows=True)
    batch = batch_of(0)
    weights = batch.weights.at[:, :, 4:].set(0)
    noise = batch_of(9)
    junk = batch.characters.at[:, :, 4:].set(noise.characters[:, :, 4:])
    carry = jax.tree.map(lambda x: x + 0.3, zero_state(MODEL, B))
    one, same = objective.loss(params, batch._replace(weights=weights), carry)
    two, _ = objective.loss(params, ElmoBatch(junk, batch.targets, weights))
    close(same, carry, 0)
    for name in ("forward_loss", "backward_loss"):
        assert float(one[name].total) == pytest.approx(float(two[name].total))
        assert float(one[name].weight) == B * 4


@pytest.mark.parametrize("negatives", [0, 20])
def test_micro_batches_add_up_to_the_batch(negatives):
    whole = states_of(3, negatives=negatives)[-1]
    parts = states_of(3, negatives=negatives, accumulate=2)[-1]
    close(whole, parts, 1e-5)


def test_lazy_adamw_updates_the_rows_that_a_step_reads_alone():
    """And rows with a gradient as AdamW does; for rows without one it is no AdamW."""
    adamw = dataclasses.replace(ADAGRAD, name="adamw", peak=0.02, weight_decay=0.1)
    start = states_of(0)[0]
    lazy = states_of(2, optim=dataclasses.replace(adamw, lazy=True))
    exact = states_of(2, optim=adamw)
    tables = [s.params["softmax"]["table"] for s in (start, *lazy[1:], exact[1])]
    first = np.any(tables[1] != tables[0], axis=1)
    assert 30 < first[:300].sum() < 300 and not first[300:].any()
    np.testing.assert_allclose(tables[1][first], tables[3][first], atol=1e-6)
    assert np.abs(tables[1] - tables[3])[:300][~first[:300]].max() > 1e-4  # decay
    both = np.any(tables[2] != tables[1], axis=1)
    assert (first & ~both).any()  # read by the first step alone: no momentum
    moments = dict(leaves(lazy[1].opt_state))
    for path in (p for p in moments if p.endswith("softmax/table")):
        np.testing.assert_array_equal(np.any(np.asarray(moments[path]), axis=1), first)


@pytest.mark.oracle
def test_lazy_adamw_is_torchs_sparse_adam():
    """With the same rows of a gradient, for several steps; torch adds eps elsewhere."""
    import optax
    import torch

    from jaxlm.objectives.objective import SampledRows
    from jaxlm.train.step import _gather, _scatter

    optim = OptimConfig(
        name="adamw",
        lazy=True,
        peak=0.1,
        warmup=0,
        decay="constant",
        weight_decay=0.0,
        clip=0.0,
        eps=1e-12,
    )
    random = np.random.default_rng(0)
    start = random.standard_normal((9, 3)).astype(np.float32)
    params = {"softmax": {"table": jnp.asarray(start), "bias": jnp.zeros(9)}}
    optimizer, _ = make_optimizer(optim, 10, params)
    state = optimizer.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-12)
    for rows in ([0, 2, 5], [2, 3, 9], [0, 5, 8]):  # 9: padding
        sampled = SampledRows(("softmax/table", "softmax/bias"), jnp.array(rows), None)
        grad = random.standard_normal((3, 3)).astype(np.float32)
        grads = {"softmax": {"table": jnp.asarray(grad), "bias": jnp.zeros(3)}}
        some = _gather((params, state), sampled)
        updates, some_state = optimizer.update(grads, some[1], some[0])
        new = optax.apply_updates(some[0], updates), some_state
        params, state = _scatter((params, state), new, sampled)
        real = [i for i, row in enumerate(rows) if row < 9]
        at = torch.tensor([rows[i] for i in real])[None]
        with torch.sparse.check_sparse_tensor_invariants():
            theirs.grad = torch.sparse_coo_tensor(at, torch.tensor(grad[real]), (9, 3))
            adam.step()
        ours = params["softmax"]["table"]
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6)


@pytest.mark.devices
def test_sampled_words_do_not_move_between_devices(monkeypatch):
    # As on an accelerator.
    choose = lambda *operands, cpu, default: default(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    text = step_text(MeshConfig(data=2, fsdp=4), rows=16)
    assert "all-reduce" in text
    assert "collective-permute" not in text and "all-to-all" not in text


def step_text(mesh_config: MeshConfig, rows: int) -> str:
    """The compiled step of a run with a sampled softmax."""
    model = dataclasses.replace(MODEL, d_model=8)
    objective = objective_of(model, BilmData(negatives=20), few_rows=True)
    mesh, module = make_mesh(mesh_config), build(model)
    with jax.set_mesh(mesh):
        params = jax.eval_shape(
            lambda: module.init(jax.random.key(0), *module.example())["params"]
        )
        optimizer, schedule = make_optimizer(ADAGRAD, 100, params)
        _, state = abstract_state(
            module, optimizer, mesh, seed=3, zero_carry=lambda: zero_state(model, rows)
        )
        step = make_train_step(
            objective, optimizer, schedule, accumulate=1, dropout=False
        )
        cut = batch_sharding(mesh)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut),
            batch_of(0, rows),
        )
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch, 3)
        quick = {"xla_backend_optimization_level": 0}
        return lowered.compile(compiler_options=quick).as_text()


@pytest.mark.oracle
def test_adagrad_is_tensorflows():
    """torch's with eps 0 and TensorFlow's accumulator; the original's scaling first."""
    import optax
    import torch

    random = np.random.default_rng(0)
    start = random.standard_normal((5, 3)).astype(np.float32)
    bias = jnp.zeros(5)
    params = {"softmax": {"table": jnp.asarray(start), "bias": bias}}
    optimizer, _ = make_optimizer(ADAGRAD, 10, params)
    state = optimizer.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adagrad = torch.optim.Adagrad(
        [theirs], lr=0.2, initial_accumulator_value=1.0, eps=0.0
    )
    for scale in (0.01, 0.2, 3.0):
        grad = (scale * random.standard_normal((5, 3))).astype(np.float32)
        updates, state = optimizer.update(
            {"softmax": {"table": jnp.asarray(grad), "bias": bias}}, state, params
        )
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(grad * 20.0)
        torch.nn.utils.clip_grad_norm_([theirs], 10.0)
        adagrad.step()
        np.testing.assert_allclose(
            params["softmax"]["table"], theirs.detach().numpy(), rtol=2e-6, atol=2e-6
        )
