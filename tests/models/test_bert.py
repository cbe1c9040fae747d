"""Shapes, names, counts and invariants of the Bert module."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import BertConfig, bert
from jaxlm.config.model import BERT_SIZES
from jaxlm.families import num_parameters
from jaxlm.losses import cross_entropy
from jaxlm.models import encoder
from jaxlm.models.bert import Bert
from jaxlm.models.flops import bert_forward_flops
from jaxlm.models.layers import position_ids
from jaxlm.tree import leaves

CONFIG = BertConfig(
    vocab_size=31, num_layers=2, num_heads=2, d_model=16, d_ff=24, max_length=12
)
KEY = jax.random.key(0)


def rows(batch=3, length=10):
    keys = jax.random.split(jax.random.key(1), 2)
    tokens = jax.random.randint(keys[0], (batch, length), 0, CONFIG.vocab_size)
    types = jax.random.randint(keys[1], (batch, length), 0, 2)
    return tokens, types


LENGTHS = jnp.array((10, 7, 4))


def init(config=CONFIG, **module):
    return jax.jit(Bert(config, **module).init)(KEY, *rows())["params"]


PARAMS = init()
POSITIONS = jnp.array([[1, 4, 9], [0, 3, 5], [2, 3, 0]])


@functools.partial(jax.jit, static_argnames=("config", "logits", "dtype"))
def apply(
    params,
    *inputs,
    key=None,
    config=CONFIG,
    logits=True,
    dtype=jnp.float32,
    lengths=LENGTHS,
    **facts,
):
    return Bert(config, dtype).apply(
        {"params": params},
        *inputs,
        lengths=lengths,
        **facts,
        logits=logits,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )


def train_loss(params, key=None, *, config=CONFIG, remat="none", dtype=jnp.float32):
    out = Bert(config, dtype, remat).apply(
        {"params": params},
        *rows(),
        POSITIONS,
        lengths=LENGTHS,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )
    targets = jnp.arange(9).reshape(3, 3)
    mlm = cross_entropy(out.logits, targets, jnp.ones((3, 3)))
    nsp = cross_entropy(out.nsp_logits, jnp.array([0, 1, 1]), jnp.ones(3))
    return mlm.loss / 9 + nsp.loss / 3


loss_and_grads = jax.jit(
    jax.value_and_grad(train_loss), static_argnames=("config", "remat", "dtype")
)


def test_parameter_names_and_shapes_are_golden():
    got = {path: leaf.shape for path, leaf in leaves(PARAMS)}
    d, f, h, k, n = 16, 24, 2, 8, 2
    want = {
        "embed/token/table": (128, d),
        "embed/position/table": (12, d),
        "embed/token_type/table": (2, d),
        "embed/norm/scale": (d,),
        "embed/norm/bias": (d,),
        "layers/attention/out/kernel": (n, h, k, d),
        "layers/attention/out/bias": (n, d),
        "layers/attention_norm/scale": (n, d),
        "layers/attention_norm/bias": (n, d),
        "layers/mlp/wi/kernel": (n, d, f),
        "layers/mlp/wi/bias": (n, f),
        "layers/mlp/wo/kernel": (n, f, d),
        "layers/mlp/wo/bias": (n, d),
        "layers/mlp_norm/scale": (n, d),
        "layers/mlp_norm/bias": (n, d),
        "pooler/kernel": (d, d),
        "pooler/bias": (d,),
        "mlm/dense/kernel": (d, d),
        "mlm/dense/bias": (d,),
        "mlm/norm/scale": (d,),
        "mlm/norm/bias": (d,),
        "mlm/bias": (128,),
        "nsp/kernel": (d, 2),
        "nsp/bias": (2,),
    }
    for name in ("query", "key", "value"):
        want[f"layers/attention/{name}/kernel"] = (n, d, h, k)
        want[f"layers/attention/{name}/bias"] = (n, h, k)
    assert got == want
    assert type(PARAMS) is dict
    assert all(leaf.dtype == jnp.float32 for _, leaf in leaves(PARAMS))


def test_without_nsp_there_is_no_pooler():
    config = dataclasses.replace(CONFIG, nsp=False)
    params = init(config)
    assert {path for path, _ in leaves(PARAMS)} - {p for p, _ in leaves(params)} == {
        "pooler/kernel",
        "pooler/bias",
        "nsp/kernel",
        "nsp/bias",
    }
    out = jax.eval_shape(lambda: apply(params, *rows(), config=config))
    assert out.pooled is None
    assert out.nsp_logits is None
    assert out.logits is not None


# google-research/bert README (2018 and the small BERTs of 2020); heads are
# D² + D + 2D + V + 2D + 2.
PUBLISHED = {
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
}
WITH_HEADS = {"base": 110_106_428, "large": 336_226_108}


@pytest.mark.parametrize("size", BERT_SIZES)
def test_parameter_counts_are_the_published_ones(size):
    config = bert(size)
    ids = jnp.zeros((1, 4), jnp.int32)
    params = jax.eval_shape(Bert(config).init, KEY, ids, ids)["params"]
    encoder = {k: v for k, v in params.items() if k in ("embed", "layers", "pooler")}
    assert num_parameters(encoder, config) == PUBLISHED[size]
    d, heads = config.d_model, num_parameters(params, config) - PUBLISHED[size]
    assert heads == d * d + 5 * d + config.vocab_size + 2
    assert heads + PUBLISHED[size] == WITH_HEADS.get(size, heads + PUBLISHED[size])


def test_weights_start_as_the_original_s():
    # TensorFlow's truncated normal is cut at two sigma and not rescaled.
    params = init(dataclasses.replace(CONFIG, vocab_size=5000))
    for path, leaf in leaves(params):
        kind = path.rsplit("/", 1)[1]
        if kind in ("bias", "scale"):
            assert (leaf == (kind == "scale")).all(), path
        else:
            assert abs(leaf).max() <= 0.04, path
    assert abs(params["embed"]["token"]["table"][:5000].std() - 0.0176) < 1e-4
    one, other = params["layers"]["mlp"]["wi"]["kernel"]
    assert (one != other).all(), "layers start alike"


def test_hidden_states_begin_with_the_embedding_output():
    out = apply(PARAMS, *rows())
    assert out.hidden.shape == (3, 3, 10, 16)
    assert out.pooled.shape == (3, 16)
    assert out.logits.shape == (3, 10, 31)
    assert out.nsp_logits.shape == (3, 2)
    shallow = dataclasses.replace(CONFIG, num_layers=1)
    first = {**PARAMS, "layers": jax.tree.map(lambda x: x[:1], PARAMS["layers"])}
    alone = apply(first, *rows(), config=shallow)
    np.testing.assert_allclose(out.hidden[:2], alone.hidden, atol=1e-5)


def test_gathered_logits_are_those_of_the_positions():
    everywhere = apply(PARAMS, *rows()).logits
    gathered = apply(PARAMS, *rows(), POSITIONS).logits
    want = np.take_along_axis(np.asarray(everywhere), POSITIONS[..., None], 1)
    np.testing.assert_allclose(gathered, want, atol=1e-5)


def test_features_come_without_logits():
    jaxpr = jax.make_jaxpr(lambda params: apply(params, *rows(), logits=False))(PARAMS)
    assert len(jaxpr.out_avals) == 4, "hidden, last, table and pooled only"
    assert f"3,10,{CONFIG.vocab_size}]" not in str(jaxpr)


def test_padding_does_not_influence_the_rest():
    tokens, types = rows()
    real = np.arange(10)[None] < np.asarray(LENGTHS)[:, None]
    other = jnp.where(real, tokens, (tokens + 1) % CONFIG.vocab_size)
    one, two = apply(PARAMS, tokens, types), apply(PARAMS, other, types)
    assert (one.hidden[0] != two.hidden[0]).any(), "the test changes nothing"
    np.testing.assert_array_equal(one.hidden[:, real], two.hidden[:, real])
    np.testing.assert_array_equal(one.pooled, two.pooled)
    seen = apply(PARAMS, other, types, lengths=None)
    assert (abs(seen.hidden[-1] - one.hidden[-1])[real] > 1e-4).any()


def test_packed_rows_do_not_mix():
    tokens, types = rows()
    segments = jnp.array([[1] * 5 + [2] * 4 + [0]] * 3)
    packed = {"segments": segments, "position_ids": position_ids(segments)}
    together = apply(PARAMS, tokens, types, lengths=None, **packed)
    for text in (slice(0, 5), slice(5, 9)):
        alone = apply(PARAMS, tokens[:, text], types[:, text], lengths=None)
        np.testing.assert_allclose(together.hidden[:, :, text], alone.hidden, atol=1e-5)
        pooled = together.pooled[:, text.start]  # a text's lies at its first token
        np.testing.assert_allclose(pooled, alone.pooled, atol=1e-5)


def test_token_types_and_order_matter():
    tokens, types = rows()
    base = apply(PARAMS, tokens, types, lengths=None).pooled
    other_types = apply(PARAMS, tokens, 1 - types, lengths=None)
    assert (abs(other_types.pooled - base) > 1e-5).any()
    flipped = apply(PARAMS, jnp.flip(tokens, 1), jnp.flip(types, 1), lengths=None)
    assert (abs(flipped.pooled - base) > 1e-5).any()


def test_too_long_a_row_is_an_error_with_the_numbers():
    ids = jnp.zeros((1, 13), jnp.int32)
    with pytest.raises(ValueError, match=r"13 tokens .*max_length = 12"):
        Bert(CONFIG).apply({"params": PARAMS}, ids, ids)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_changes_neither_loss_nor_gradient(remat):
    got = loss_and_grads(PARAMS, jax.random.key(5), remat=remat)
    want = loss_and_grads(PARAMS, jax.random.key(5), remat="none")
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def dots_in(remat):
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: train_loss(p, remat=remat)))(PARAMS)
    return str(jaxpr).count("dot_general")


def test_a_tpu_keeps_products_and_computes_the_rest_again(monkeypatch):
    def kept():
        _, backward = jax.vjp(train_loss, PARAMS)
        return sum(x.nbytes for x in jax.tree.leaves(backward))

    products, most = dots_in("none"), kept()
    monkeypatch.setattr(encoder, "platform", lambda: "tpu")
    assert dots_in("none") == products
    assert kept() < 0.85 * most


def test_recomputing_repeats_what_it_says():
    # In the scanned body: 6 products with weights, 2 of attention.
    assert dots_in("dots") == dots_in("none") + 2
    assert dots_in("full") >= dots_in("none") + 7


def test_bfloat16_is_close_to_float32():
    half = apply(PARAMS, *rows(), dtype=jnp.bfloat16)
    full = apply(PARAMS, *rows())
    assert half.hidden.dtype == jnp.bfloat16
    assert half.logits.dtype == half.nsp_logits.dtype == jnp.float32
    np.testing.assert_allclose(
        half.hidden.astype(jnp.float32), full.hidden, atol=0.06, rtol=0.05
    )
    _, grads = loss_and_grads(PARAMS, dtype=jnp.bfloat16)
    _, exact = loss_and_grads(PARAMS)
    for (path, got), (_, want) in zip(leaves(grads), leaves(exact), strict=True):
        assert got.dtype == jnp.float32
        if path == "layers/attention/key/bias":  # zero but for rounding
            continue
        assert abs(got - want).max() < 0.06 * abs(want).max(), path


def test_dropout_is_named_by_its_key():
    keys = [jax.random.key(i) for i in (1, 1, 2)]
    losses = [loss_and_grads(PARAMS, key)[0] for key in keys]
    assert losses[0] == losses[1] != losses[2]
    off = dataclasses.replace(CONFIG, dropout=0.0)
    without = loss_and_grads(PARAMS, KEY, config=off)[0]
    np.testing.assert_allclose(without, loss_and_grads(PARAMS)[0], rtol=1e-6)


def test_dropout_differs_by_row_and_layer():
    # With attention and MLP silent, a layer's output shows its two masks only.
    deep = dataclasses.replace(CONFIG, num_layers=3, dropout=0.5)
    params = init(deep)
    ones = jax.tree.map(jnp.zeros_like, params["layers"])
    ones["mlp"]["wo"]["bias"] += jnp.arange(1, 17)[None] * 1.0
    ones["mlp_norm"]["scale"] += 1
    ids = jnp.zeros((4, 8), jnp.int32)
    given = {**params, "layers": ones}
    hidden = apply(given, ids, ids, key=KEY, config=deep, lengths=None)
    dropped = np.asarray(hidden.hidden)[1:]
    for axis in range(3):  # layers, rows, positions
        same = (dropped == np.roll(dropped, 1, axis)).mean()
        assert same < 0.1, f"masks are alike along axis {axis}"


def test_hidden_states_that_nobody_reads_cost_nothing():
    deep = dataclasses.replace(CONFIG, num_layers=6, max_length=64)  # a loop
    ids = jnp.zeros((8, 64), jnp.int32)
    inputs = (ids, ids)
    params = jax.eval_shape(Bert(deep).init, KEY, *inputs)["params"]

    def compiled(function, **reads):
        def run(params):
            out = Bert(deep).apply({"params": params}, *inputs)
            return sum((getattr(out, name) ** 2).sum() for name in reads)

        return jax.jit(function(run)).lower(params).compile()

    stacked = 6 * 8 * 64 * 16 * 4

    def temporary(**reads):
        return compiled(lambda f: f, **reads).memory_analysis().temp_size_in_bytes

    assert temporary(pooled=True) + stacked < temporary(pooled=True, hidden=True)
    assert "[7,8,64,16]" not in compiled(jax.grad, pooled=True).as_text()
    assert "[7,8,64,16]" in compiled(jax.grad, pooled=True, hidden=True).as_text()


@pytest.mark.parametrize(
    "size, length, predictions, per_token",
    [
        ("base", 128, 20, 546e6),
        ("base", 512, 80, 589e6),
        ("large", 128, 20, 1880e6),
        ("large", 512, 80, 1993e6),
    ],
)
def test_flops_are_the_formula_s(size, length, predictions, per_token):
    flops = 3 * bert_forward_flops(bert(size), length, predictions)
    assert abs(flops / length / per_token - 1) < 0.005


def test_flops_agree_with_the_compiler_s():
    config = BertConfig(
        vocab_size=512, num_layers=1, num_heads=2, d_model=256, d_ff=1024, max_length=64
    )
    ids = jnp.zeros((4, 64), jnp.int32)
    at = jnp.zeros((4, 8), jnp.int32)
    module = Bert(config)

    def loss(params):
        out = module.apply({"params": params}, ids, ids, at)
        return (out.logits**2).sum() + (out.nsp_logits**2).sum()

    params = jax.eval_shape(module.init, KEY, ids, ids)["params"]
    cost = jax.jit(jax.grad(loss)).lower(params).cost_analysis()
    flops = 3 * 4 * bert_forward_flops(config, length=64, predictions=8)
    assert 1 < cost["flops"] / flops < 1.06, "XLA counts element-wise work as well"
