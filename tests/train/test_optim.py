"""Optimisers and schedules against references that share no code with them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_gradients import SHAPES, draw, nested, run

from jaxlm.config import OptimConfig
from jaxlm.train.optim import make_optimizer, make_schedule
from jaxlm.tree import leaves

DECAYED = {
    "embed/token/table",
    "embed/position/table",
    "embed/token_type/table",
    "layers/attention/query/kernel",
    "layers/attention/key/kernel",
    "layers/attention/value/kernel",
    "layers/attention/out/kernel",
    "layers/mlp/wi/kernel",
    "layers/mlp/wo/kernel",
    "pooler/kernel",
    "mlm/dense/kernel",
    "nsp/kernel",
}


def close(ours, theirs, tolerance=2e-6):
    for path, expected in theirs.items():
        error = np.abs(np.asarray(ours[path], np.float64) - expected).max()
        assert error <= tolerance * max(1.0, np.abs(expected).max()), (path, error)


# -- schedules ------------------------------------------------------------


def google_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """optimization.py:create_optimizer: polynomial_decay(power 1, end 0), then
    is_warmup * warmup_rate + (1 - is_warmup) * rate."""
    rate = (peak - 0.0) * (1 - min(step, total) / total) ** 1.0 + 0.0
    return peak * step / warmup if step < warmup else rate


@pytest.mark.parametrize("warmup, total", [(10, 100), (10_000, 1_000_000), (0, 7)])
def test_the_kinked_schedule_is_googles_at_every_turn(warmup, total):
    config = OptimConfig(peak=1e-4, warmup=warmup, decay="linear_kinked")
    rate = make_schedule(config, total)
    for step in (0, 1, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total):
        if step >= 0:
            expected = google_rate(step, 1e-4, warmup, total)
            np.testing.assert_allclose(rate(step), expected, rtol=1e-6, atol=1e-12)
    if warmup:
        # The kink: where warm-up ends the rate falls by warmup / total of the peak.
        fall = float(rate(warmup - 1)) + 1e-4 / warmup - float(rate(warmup))
        np.testing.assert_allclose(fall, 1e-4 * warmup / total, rtol=1e-3)
        assert rate(0) == 0


@pytest.mark.parametrize(
    "decay, at",
    [
        ("linear", lambda x: 1 - x),
        ("cosine", lambda x: 0.5 * (1 + math.cos(math.pi * x))),
        ("constant", lambda x: 1.0),
        ("wsd", lambda x: 1 - math.sqrt(max(0.0, (x - 0.5) / 0.5))),
        ("wsd_linear", lambda x: min(1.0, (1 - x) / 0.5)),
    ],
)
def test_other_schedules_start_down_where_warmup_ends(decay, at):
    config = OptimConfig(peak=3e-4, warmup=20, decay=decay, cooldown=0.4)
    rate = make_schedule(config, 100)
    for step in range(101):
        part = step / 20 if step < 20 else at((step - 20) / 80)
        np.testing.assert_allclose(rate(step), 3e-4 * part, rtol=1e-5, atol=1e-10)
    # Under jit, on the count that the optimiser keeps, it is the same number.
    np.testing.assert_allclose(jax.jit(rate)(jnp.int32(33)), rate(33), rtol=1e-6)


def test_linear_equals_transformers_form():
    """HF get_linear_schedule_with_warmup, written from its documentation."""
    rate = make_schedule(OptimConfig(peak=1.0, warmup=5, decay="linear"), 25)
    for step in range(26):
        expected = step / 5 if step < 5 else max(0.0, (25 - step) / (25 - 5))
        np.testing.assert_allclose(rate(step), expected, rtol=1e-6, atol=1e-7)


def test_a_warmup_longer_than_the_run_only_goes_up():
    rate = make_schedule(OptimConfig(peak=1.0, warmup=100, decay="linear"), 10)
    np.testing.assert_allclose([rate(s) for s in (0, 5, 9)], [0, 0.05, 0.09], rtol=1e-6)


# -- updates ------------------------------------------------------------


def clipped(grads, limit):
    """tf.clip_by_global_norm: t * limit / max(norm, limit)."""
    norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    return {p: g * (limit / max(norm, limit)) for p, g in grads.items()}


@pytest.mark.parametrize("scale", [1.0, 0.01])  # with and without effect of the clip
def test_bert_adam_is_googles_algorithm_to_the_letter(scale):
    config = OptimConfig(
        name="bert_adam", peak=1e-2, warmup=3, decay="linear_kinked", clip=1.0
    )
    params = {p: v.astype(np.float64) for p, v in draw(0, 0.5).items()}
    m = {p: np.zeros_like(v) for p, v in params.items()}
    v = {p: np.zeros_like(x) for p, x in params.items()}
    for step, ours in enumerate(run(config, 8, 10, scale)):
        grads = clipped(draw(step + 1, scale), 1.0)
        for p in params:
            m[p] = 0.9 * m[p] + 0.1 * grads[p]
            v[p] = 0.999 * v[p] + 0.001 * grads[p] ** 2
            update = m[p] / (np.sqrt(v[p]) + 1e-6)
            if p in DECAYED:
                update += 0.01 * params[p]
            params[p] = params[p] - google_rate(step, 1e-2, 3, 10) * update
        close(ours, params)


def test_the_first_update_is_at_rate_zero_and_the_second_not():
    config = OptimConfig(name="bert_adam", peak=1.0, warmup=4, decay="linear_kinked")
    start = draw(0, 0.5)
    first, second = run(config, 2, 10)
    assert all((np.asarray(first[p]) == start[p]).all() for p in start)
    assert all((np.asarray(second[p]) != start[p]).any() for p in start)


def test_lamb_is_the_papers_with_a_ratio_for_each_layer():
    """You et al. 2019, Algorithm 2, φ the identity; on each layer's own tensor."""
    config = OptimConfig(name="lamb", peak=1e-2, warmup=0, decay="constant", clip=0.0)
    params = {p: v.astype(np.float64) for p, v in draw(0, 0.5).items()}
    params["mlm/bias"] = params["mlm/bias"].astype(np.float64)
    m = {p: np.zeros_like(v) for p, v in params.items()}
    v = {p: np.zeros_like(x) for p, x in params.items()}
    for step, ours in enumerate(run(config, 4, 10)):
        grads = draw(step + 1)
        for p in params:
            m[p] = 0.9 * m[p] + 0.1 * grads[p]
            v[p] = 0.999 * v[p] + 0.001 * grads[p].astype(np.float64) ** 2
            m_hat, v_hat = (
                m[p] / (1 - 0.9 ** (step + 1)),
                v[p] / (1 - 0.999 ** (step + 1)),
            )
            update = m_hat / (np.sqrt(v_hat) + 1e-6)
            if p in DECAYED:
                update = update + 0.01 * params[p]
            # The published network has a tensor a layer; ours are slices of one array.
            whole = params[p][None] if not p.startswith("layers/") else params[p]
            parts = update[None] if not p.startswith("layers/") else update
            moved = np.stack(
                [
                    w - 1e-2 * u * np.linalg.norm(w.ravel()) / np.linalg.norm(u.ravel())
                    for w, u in zip(whole, parts, strict=True)
                ]
            )
            params[p] = moved if p.startswith("layers/") else moved[0]
        close(ours, params)


def test_lamb_moves_a_zero_parameter():
    params = {"nsp": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
    config = OptimConfig(name="lamb", peak=0.1, warmup=0, decay="constant")
    optimizer, _ = make_optimizer(config, 10, params)
    grads = {"nsp": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["nsp"]["kernel"], -0.1, rtol=1e-4)
    np.testing.assert_array_equal(updates["nsp"]["bias"], 0)


@pytest.mark.parametrize("name", ["lamb", "adamw", "bert_adam"])
def test_a_second_stack_of_layers_is_trained_like_the_first(name):
    """Each of two encoders is updated as if it were alone (without clipping)."""
    config = OptimConfig(name=name, peak=1e-2, warmup=0, decay="constant", clip=0.0)

    def updates_of(wrap):
        params, grads = wrap(nested(draw(0, 0.5))), wrap(nested(draw(1)))
        optimizer, _ = make_optimizer(config, 10, params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    alone = updates_of(lambda tree: tree)
    both = updates_of(lambda tree: {"generator": tree, "discriminator": tree})
    for part in both.values():
        for (path, x), (_, y) in zip(leaves(part), leaves(alone), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=path)


@pytest.mark.oracle
def test_adamw_equals_torchs():
    import torch

    config = OptimConfig(
        name="adamw", peak=1e-2, warmup=0, decay="constant", clip=1.0, eps=1e-8
    )
    theirs = {p: torch.nn.Parameter(torch.tensor(v)) for p, v in draw(0, 0.5).items()}
    groups = [
        {"params": [theirs[p] for p in SHAPES if p in DECAYED], "weight_decay": 0.01},
        {
            "params": [theirs[p] for p in SHAPES if p not in DECAYED],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    for step, ours in enumerate(run(config, 6, 10)):
        for p, g in draw(step + 1).items():
            theirs[p].grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.0)
        optimizer.step()
        close(ours, {p: t.detach().numpy() for p, t in theirs.items()}, 5e-6)


@pytest.mark.oracle
def test_gpt1_adam_is_openais():
    """Its step is torch's AdamW whose eps and decay change with the step.

    m̂ / (√v̂ + ε / √(1 − b2ᵗ)) is the correction times m / (√v + ε).
    """
    import torch

    config = OptimConfig(
        name="gpt1_adam", peak=1e-2, warmup=0, decay="constant", clip=0.0, eps=1e-3
    )
    theirs = {p: torch.nn.Parameter(torch.tensor(v)) for p, v in draw(0, 0.5).items()}
    groups = [
        {"params": [t for p, t in theirs.items() if (p in DECAYED) == decays]}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999))
    for step, ours in enumerate(run(config, 6, 10)):
        left1, left2 = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
        decaying, constant = optimizer.param_groups
        decaying["eps"] = constant["eps"] = 1e-3 / left2**0.5
        decaying["weight_decay"] = 0.01 * left2**0.5 / left1
        constant["weight_decay"] = 0.0
        for p, g in draw(step + 1).items():
            theirs[p].grad = torch.tensor(g)
        optimizer.step()
        close(ours, {p: t.detach().numpy() for p, t in theirs.items()}, 5e-6)


@pytest.mark.parametrize("name", ["muon", "lamb"])
def test_what_is_frozen_has_no_moments_and_the_rest_moves_as_before(name):
    """As fine-tuning masks and scales the rates of layers."""
    config = OptimConfig(name=name, peak=1e-2, warmup=0, decay="constant", clip=0.0)
    params, grads = nested(draw(0, 0.5)), nested(draw(1))
    scales = jax.tree.map(lambda _: 1.0, params)
    scales["layers"]["attention"]["query"]["kernel"] = 0.0
    scales["embed"]["token"]["table"] = 0.0
    scales["layers"]["mlp"]["wi"]["kernel"] = np.array([0.5, 1.0]).reshape(2, 1, 1)
    (plain, _), (masked, _) = (
        make_optimizer(config, 10, params, each) for each in (None, scales)
    )
    state = masked.init(params)
    assert len(jax.tree.leaves(state)) < len(jax.tree.leaves(plain.init(params)))
    updates = dict(leaves(masked.update(grads, state, params)[0]))
    every = dict(leaves(plain.update(grads, plain.init(params), params)[0]))
    for path, scale in leaves(scales):
        np.testing.assert_array_equal(updates[path], every[path] * scale, path)


# -- what decays ------------------------------------------------------------


@pytest.mark.parametrize(
    "name, nsp",
    [
        ("bert_adam", True),
        ("bert_adam", False),
        ("gpt1_adam", True),
        ("adamw", True),
        ("lamb", True),
    ],
)
def test_exactly_kernels_and_tables_decay(name, nsp):
    flat = {
        p: np.full(shape, 2.0, np.float32)
        for p, shape in SHAPES.items()
        if nsp or not p.startswith(("pooler", "nsp"))
    }
    params = nested(flat)
    config = OptimConfig(name=name, peak=0.1, warmup=0, decay="constant")
    # Only shapes: an optimiser is made before there are parameters.
    optimizer, _ = make_optimizer(config, 10, jax.eval_shape(lambda: params))
    zeros = jax.tree.map(np.zeros_like, params)
    state = jax.jit(optimizer.init)(params)
    updates, _ = jax.jit(optimizer.update)(zeros, state, params)
    moved = {p for p, u in leaves(updates) if np.asarray(u).any()}
    assert moved == DECAYED & set(flat)


def test_a_leaf_of_an_unknown_kind_is_an_error_that_names_it():
    params = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(2), "gain": jnp.ones(2)}}
    with pytest.raises(ValueError, match="a/gain matches no rule"):
        make_optimizer(OptimConfig(), 10, params)


def test_moments_are_two_buffers_so_that_a_step_can_donate_them():
    params = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    optimizer, _ = make_optimizer(OptimConfig(name="bert_adam"), 10, params)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    step(optimizer.init(params))
