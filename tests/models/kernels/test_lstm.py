"""The LSTM by hand equals a plain scan of the cell, in value and in every gradient."""

import itertools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.kernels.lstm import Carry, Weights, lstm
from jaxlm.tree import leaves
from tools.bench.recurrence import lstm_by_scan

# All different, so that a shape says what it belongs to.
G, B, L, E, D, F = 2, 3, 5, 7, 11, 13
CLIPS = {"cell_clip": 0.5, "proj_clip": 0.3}
LENGTHS = np.array([[5, 2, 0], [5, 3, 4]])


def arguments(scale=1.0):
    random = np.random.default_rng(0)

    def normal(*shape, by=scale):
        return jnp.asarray(random.normal(0, by, shape), jnp.float32)

    x = normal(G, B, L, E)
    weights = Weights(normal(G, E + D, 4, F, by=0.5), normal(G, 4, F), normal(G, F, D))
    return x, weights, Carry(normal(G, B, F, by=0.3), normal(G, B, D, by=0.2))


def value_and_gradients(kernel, lengths, **choices):
    """Outputs, last carry, and the gradients of a random linear function of both."""
    x, weights, carry = arguments()
    random = np.random.default_rng(1)
    factors = [random.normal(size=s) for s in ((G, B, L, D), (G, B, F), (G, B, D))]

    def loss(x, weights, carry):
        out, last = kernel(x, weights, carry, lengths, **choices)
        parts = zip((out, *last), factors, strict=True)
        return sum((part * factor).sum() for part, factor in parts), (out, last)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = run(x, weights, carry)
    return dict(leaves({"out": out, "grads": grads}))


@pytest.fixture
def accelerator(monkeypatch):
    """What is chosen by platform is what another than a CPU gets."""
    choose = lambda *operands, cpu, default: default(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)


CASES = [*itertools.product(({}, CLIPS), (None, LENGTHS), (None,))]
CASES += [(CLIPS, LENGTHS, "accelerator")]


@pytest.mark.parametrize("clips, lengths, platform", CASES)
def test_value_and_gradients_equal_a_plain_scans(clips, lengths, platform, request):
    if platform:
        request.getfixturevalue(platform)
    lengths = None if lengths is None else jnp.asarray(lengths)
    mine = value_and_gradients(lstm, lengths, **clips)
    theirs = value_and_gradients(lstm_by_scan, lengths, **clips)
    assert len(mine) == 3 + 6 and set(mine) == set(theirs)
    for path, want in theirs.items():
        size = np.abs(want).max()
        assert size > 0, path
        worst = np.abs(mine[path] - want).max() / size
        assert worst < 1e-5, f"{path}: {worst:.1e} of {size:.1e}"
    if clips:  # the cases are worth something only where both clips are at work
        out, cell = np.abs(mine["out/0"]), np.abs(mine["out/1/cell"])
        assert 0.05 < (out == CLIPS["proj_clip"]).mean() < 0.95
        assert 0.05 < (cell == CLIPS["cell_clip"]).mean() < 0.95


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_no_projection_is_one_that_changes_nothing(lengths):
    lengths = None if lengths is None else jnp.asarray(lengths)
    x, weights, carry = arguments()
    kernel = jnp.concatenate([weights.kernel, weights.kernel[:, : F - D]], axis=1)
    carry = Carry(carry.cell, carry.cell[..., ::-1])

    def gradients(projection):
        def loss(x, kernel, carry):
            given = Weights(kernel, weights.bias, projection)
            out, last = lstm(x, given, carry, lengths, **CLIPS)
            return (out**2).sum() + (last.cell * last.out).sum(), out

        run = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
        return dict(leaves(jax.jit(run)(x, kernel, carry)))

    identity = jnp.broadcast_to(jnp.eye(F), (G, F, F))
    mine, theirs = gradients(None), gradients(identity)
    assert len(mine) == 5
    for path, want in theirs.items():
        np.testing.assert_allclose(mine[path], want, atol=1e-5 * np.abs(want).max())


def test_a_row_that_has_ended_keeps_its_state_and_gives_zeros():
    x, weights, carry = arguments()
    out, last = lstm(x, weights, carry, jnp.asarray(LENGTHS), **CLIPS)
    for g, b in np.ndindex(G, B):
        n = LENGTHS[g, b]
        alone, end = lstm(x[:, :, : max(n, 1)], weights, carry, **CLIPS)
        np.testing.assert_array_equal(out[g, b, n:], 0)
        np.testing.assert_allclose(out[g, b, :n], alone[g, b, :n], atol=1e-6)
        end = carry if n == 0 else end
        np.testing.assert_allclose(last.cell[g, b], end.cell[g, b], atol=1e-6)
        np.testing.assert_allclose(last.out[g, b], end.out[g, b], atol=1e-6)


@pytest.mark.parametrize("start, passes", [(2.9, 1.0), (3.0, 1.0), (3.1, 0.0)])
def test_the_gradient_passes_a_clip_up_to_its_bound_and_on_it(start, passes):
    """TensorFlow's minimum and maximum; jnp.clip's own gradient is 0 or ½ on it."""
    weights = Weights(
        jnp.zeros((1, 2, 4, 1)),
        # i shut, f wide open: the cell stays what it was, exactly.
        jnp.array([-300.0, 0, 300, 0]).reshape(1, 4, 1),
        jnp.zeros((1, 1, 1)),
    )

    def last_cell(cell):
        carry = Carry(cell.reshape(1, 1, 1), jnp.zeros((1, 1, 1)))
        _, last = lstm(jnp.zeros((1, 1, 1, 1)), weights, carry, cell_clip=3.0)
        return last.cell.sum()

    value, grad = jax.value_and_grad(last_cell)(jnp.array(start))
    assert value == min(start, 3.0)
    assert grad == passes


# --- what the loops carry ------------------------------------------------------------


def loops(jaxpr):
    """(sizes of what a loop carries, sizes of what its products give) of each loop."""
    for eqn in jaxpr.eqns:
        inner = [*jax.extend.core.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name in ("scan", "while"):
            (body,) = [j for j in inner if len(j.outvars) == len(eqn.outvars)]
            carried = eqn.params.get("num_carry", len(body.outvars))
            yield (
                [v.aval.size for v in body.outvars[:carried]],
                [v.aval.size for v in products(body)],
            )
        for each in inner:
            yield from loops(each)


def products(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield from eqn.outvars
        for each in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from products(each)


def weight_sizes():
    """Of the weights, of their parts for input and output, and of one direction's."""
    whole = [(E + D) * 4 * F, E * 4 * F, D * 4 * F, F * D, 4 * F]
    return {size * g for size in whole for g in (1, G)}


def gradient_loops(kernel):
    def loss(x, weights, carry):
        return kernel(x, weights, carry, jnp.asarray(LENGTHS), **CLIPS)[0].sum()

    return list(loops(jax.make_jaxpr(jax.grad(loss, argnums=1))(*arguments()).jaxpr))


def test_no_loop_carries_or_forms_a_gradient_of_the_weights():
    found = gradient_loops(lstm)
    # Forward and back; on a CPU each direction by itself.
    assert len(found) == 2 + 2 * G
    for carried, made in found:
        assert not weight_sizes() & set(carried)
        assert not weight_sizes() & set(made)
        assert len(made) == 2  # a step's products: with the kernel, the projection


def test_a_plain_scan_carries_them_which_the_test_above_would_see():
    carried = [set(sizes) & weight_sizes() for sizes, _ in gradient_loops(lstm_by_scan)]
    assert sum(map(bool, carried)) == G


def test_bfloat16_products_keep_float32_states_and_gradients():
    x, weights, carry = arguments(scale=0.5)

    def loss(weights, x, carry, dtype):
        out, last = lstm(x, weights, carry, **CLIPS, dtype=dtype)
        return (out.astype(jnp.float32) ** 2).sum(), (out, last)

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=3)
    half, (out, last) = run(weights, x, carry, jnp.bfloat16)
    full, (want, _) = run(weights, x, carry, jnp.float32)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in (*last, *half)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out.astype(np.float32), want, atol=0.02)
    for name, a, b in zip(Weights._fields, half, full, strict=True):
        worst = np.abs(a - b).max() / np.abs(b).max()
        assert 0 < worst < 0.1, f"{name}: {worst:.1e}"


@pytest.mark.devices
def test_rows_on_several_devices_are_not_gathered(accelerator):
    """Elsewhere than on a CPU, whose form of the last product would."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((B,), ("data",), axis, devices=jax.devices()[:B])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x, weights, carry = arguments()
    x, carry = jax.device_put((x, carry), rows)
    weights = jax.device_put(weights, whole)

    def loss(weights, x, carry):
        out, last = lstm(x, weights, carry, jnp.asarray(LENGTHS), **CLIPS)
        return (out**2).sum() + last.cell.sum()

    text = jax.jit(jax.grad(loss)).lower(weights, x, carry).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
