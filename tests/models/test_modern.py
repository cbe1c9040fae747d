"""The choices of an encoder: rotary positions, pre-norm, gates, biases, windows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import BertConfig, MeshConfig, RunConfig, bert
from jaxlm.families.bert import BERT
from jaxlm.models.bert import Bert
from jaxlm.models.encoder import Spec, _each_layer
from jaxlm.models.flops import bert_forward_flops
from jaxlm.models.layers import position_ids
from jaxlm.sharding import batch_sharding, make_mesh, param_shardings
from jaxlm.tree import leaves
from jaxlm.types import Note, UserError

PLAIN = BertConfig(
    vocab_size=31,
    num_layers=2,
    num_heads=2,
    d_model=16,
    d_ff=24,
    max_length=12,
    nsp=False,
)
ROFORMER = dataclasses.replace(PLAIN, positions="rope")
MODERN = dataclasses.replace(
    ROFORMER, num_token_types=0, norm="pre", norm_eps=1e-5, gated=True, biases=False
)
LOCAL = dataclasses.replace(MODERN, num_layers=5, window=4, local_rope_base=50.0)
L = 10


@functools.cache
def params_of(config):
    params = Bert(config).init(jax.random.key(0), *Bert(config).example())["params"]
    keys = iter(jax.random.split(jax.random.key(1), 99))
    some = lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape)  # noqa: E731
    return jax.tree.map(some, params)


def rows(length=L):
    return jax.random.randint(jax.random.key(1), (2, 2, length), 0, 2) * 17 + 3


@functools.partial(jax.jit, static_argnames="config")
def value_and_grads(config, params, tokens, aims, **facts):
    def loss(params):
        types = jnp.minimum(tokens, max(0, config.num_token_types - 1))
        out = Bert(config).apply({"params": params}, tokens, types, **facts)
        return (out.logits * aims).sum(), out.hidden

    return jax.value_and_grad(loss, has_aux=True)(params)


@functools.partial(jax.jit, static_argnames="config")
def hidden_of(config, params, tokens, **facts):
    out = Bert(config).apply({"params": params}, tokens, tokens * 0, **facts)
    return out.hidden


def aims_of(length=L):
    return jax.random.normal(jax.random.key(2), (2, length, PLAIN.vocab_size))


def assert_close(one, other, atol=2e-5):
    """Equal but for `atol`, of the greatest number of a leaf if that is above 1."""
    for (path, a), (_, b) in zip(leaves(one), leaves(other), strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, atol=atol * scale, rtol=1e-4, err_msg=path)


def test_parameters_of_a_modernbert():
    got = {path: leaf.shape for path, leaf in leaves(params_of(MODERN))}
    d, f, h, k, n = 16, 24, 2, 8, 2
    want = {
        "embed/token/table": (128, d),
        "embed/norm/scale": (d,),
        "layers/attention/out/kernel": (n, h, k, d),
        "layers/attention_norm/scale": (n, d),
        "layers/mlp/wi/kernel": (n, d, f),
        "layers/mlp/gate/kernel": (n, d, f),
        "layers/mlp/wo/kernel": (n, f, d),
        "layers/mlp_norm/scale": (n, d),
        "final_norm/scale": (d,),
        "mlm/dense/kernel": (d, d),
        "mlm/norm/scale": (d,),
        "mlm/bias": (128,),
    }
    for name in ("query", "key", "value"):
        want[f"layers/attention/{name}/kernel"] = (n, d, h, k)
    assert got == want
    roformer = {path for path, _ in leaves(params_of(ROFORMER))}
    plain = {path for path, _ in leaves(params_of(PLAIN))}
    assert plain - roformer == {"embed/position/table"} and roformer < plain


@pytest.mark.parametrize("config", [ROFORMER, LOCAL])
def test_a_packed_row_equals_each_of_its_texts_alone(config):
    tokens, aims, params = rows()[0], aims_of(), params_of(config)
    segments = jnp.array([[1] * 4 + [2] * 4 + [0] * 2] * 2)
    texts = slice(0, 4), slice(4, 8)
    aims = aims.at[:, 8:].set(0)  # padding
    facts = {"segments": segments, "position_ids": position_ids(segments)}
    (total, hidden), grads = value_and_grads(config, params, tokens, aims, **facts)
    alone = [
        value_and_grads(config, params, tokens[:, text], aims[:, text])
        for text in texts
    ]
    np.testing.assert_allclose(total, sum(value for (value, _), _ in alone), rtol=1e-5)
    for text, ((_, each), _) in zip(texts, alone, strict=True):
        np.testing.assert_allclose(hidden[:, :, text], each, atol=1e-5)
    summed = jax.tree.map(jnp.add, *(grads for _, grads in alone))
    assert_close(grads, summed)


def test_rope_tells_distances_apart_and_nothing_else():
    at_L = jnp.arange(L)[None]
    read = functools.partial(hidden_of, ROFORMER, params_of(ROFORMER), rows()[0])
    here, moved, spread = (
        read(position_ids=ids)
        for ids in (
            jnp.tile(at_L, (2, 1)),
            at_L + jnp.array([[7], [90]]),
            at_L * jnp.array([[2], [3]]),
        )
    )
    np.testing.assert_allclose(here, moved, atol=1e-4)
    assert (abs(here - spread)[1:] > 1e-2).any()


def test_a_local_layer_sees_half_a_window_to_each_side():
    config = dataclasses.replace(LOCAL, num_layers=2, global_every=2)
    tokens = rows()[0]
    params = params_of(config)
    # Layer 1 is local; layer 0, which is global, is silenced.
    silent = jax.tree.map(
        lambda x: x.at[0].set(0) if x.ndim > 1 else x,
        {k: params["layers"][k] for k in ("attention", "mlp")},
    )
    params = {**params, "layers": {**params["layers"], **silent}}
    base = hidden_of(config, params, tokens)[-1]
    for at in range(L):
        new = hidden_of(config, params, tokens.at[:, at].set(5))[-1]
        moved = (abs(new - base) > 1e-6).any((0, 2))
        np.testing.assert_array_equal(moved, abs(np.arange(L) - at) <= 2)


def test_a_window_wider_than_the_row_shows_all_of_it():
    wide = dataclasses.replace(LOCAL, window=2 * L, local_rope_base=10_000.0)
    given = params_of(LOCAL), rows()[0]
    want = hidden_of(dataclasses.replace(wide, window=0), *given)
    np.testing.assert_allclose(hidden_of(wide, *given), want, atol=1e-5)


def test_local_layers_drop_probabilities_inside_the_window():
    """At a rate that drops nothing, as without dropout; rows of many windows."""
    shape = {"num_layers": 2, "global_every": 2, "max_length": 40}
    config = dataclasses.replace(LOCAL, **shape)
    params, tokens = params_of(config), jnp.arange(80).reshape(2, -1) % 31
    module = Bert(dataclasses.replace(config, dropout=1e-6))

    def total(params):
        given = {"params": params}, tokens, tokens * 0
        rngs = {"dropout": jax.random.key(0)}
        last = module.apply(*given, deterministic=False, rngs=rngs).last
        return jnp.sin(last).sum(), last

    (_, last), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert_close(last, hidden_of(config, params, tokens)[-1])
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(grads))


def test_the_first_attention_has_no_norm():
    _, grads = value_and_grads(MODERN, params_of(MODERN), rows()[0], aims_of())
    first, second = grads["layers"]["attention_norm"]["scale"]
    assert not first.any() and second.any()


@pytest.mark.devices
@pytest.mark.parametrize("config", [ROFORMER, LOCAL])
def test_eight_devices_agree_with_one(config):
    config = dataclasses.replace(config, d_model=32, num_heads=4, d_ff=32)
    params, tokens = params_of(config), jnp.tile(rows()[0], (4, 1))
    segments = jnp.tile(jnp.array([[1] * 6 + [2] * 3 + [0]]), (8, 1))
    facts = {"segments": segments, "position_ids": position_ids(segments)}
    aims = jnp.tile(aims_of(), (4, 1, 1))
    want = value_and_grads(config, params, tokens, aims, **facts)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, param_shardings(mesh, params))
        rest = jax.device_put((tokens, aims, facts), batch_sharding(mesh))
        found = value_and_grads(config, params, *rest[:2], **rest[2])
    assert_close(found, want, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, "bert"),
        ({"positions": "rope"}, "roformer"),
        ({"positions": "rope", "rope_base": 500.0}, None),
        ({"positions": "rope", "num_token_types": 0}, None),
        ({"norm": "pre"}, None),
        ({"gated": True}, None),
        ({"biases": False}, None),
        ({"window": 4}, None),
    ],
)
def test_layouts(changes, layout):
    assert dataclasses.replace(PLAIN, **changes).layout == layout
    assert MODERN.layout == LOCAL.layout == "modernbert"
    assert dataclasses.replace(LOCAL, positions="learned").layout is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bert("tiny", window=5), "model.window = 5 is odd: half of it"),
        (
            lambda: bert("tiny", d_model=6, num_heads=2, positions="rope"),
            "heads of 3 have an odd number",
        ),
        (lambda: bert("tiny", global_every=0), "global_every = 0"),
        (lambda: bert("tiny", rope_base=0.0), "rope_base = 0.0"),
        (
            lambda: RunConfig(model=bert("tiny", positions="rope"), length=600),
            "exceeds model.max_length = 512: pass --model.max_length 600",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_an_error_of_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_flops_count_the_gate_and_the_window():
    def count(config, length=1000):
        return bert_forward_flops(config, length, 0) / (2 * length)

    d, f = 16, 24
    gate = count(MODERN) - count(dataclasses.replace(MODERN, gated=False))
    assert gate == 2 * d * f
    saved = count(dataclasses.replace(LOCAL, window=0)) - count(LOCAL)
    assert saved == 3 * 2 * d * (1000 - 5)  # layers 1, 2 and 4
    assert count(LOCAL, 5) == count(dataclasses.replace(LOCAL, window=0), 5)


def test_a_row_past_the_trained_length_is_read_and_said():
    tokens = np.ones((1, PLAIN.max_length + 1), int)
    with pytest.raises(UserError, match="the model has 12 positions"):
        BERT.inputs(PLAIN, tokens, None, None)
    with pytest.warns(Note, match="longer than the rows of 12 tokens"):
        (found, types), _ = BERT.inputs(MODERN, tokens, None, None)
    assert found.shape == types.shape == tokens.shape
    with pytest.raises(UserError, match="this model has no token types"):
        BERT.inputs(MODERN, tokens[:, :3], tokens[:, :3], None)


def test_flags_of_layers_are_constants():
    """So an unrolled program has no branch: XLA does not fold what is computed."""
    init = jax.nn.initializers.zeros
    spec = Spec(LOCAL, False, 0.0, init, init, jnp.float32, "none", "plain")
    jaxpr = jax.make_jaxpr(lambda: _each_layer(spec))()
    assert not jaxpr.eqns and len(jaxpr.out_avals) == 2
