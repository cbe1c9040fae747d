"""Attention equals its formula in numpy, whatever the facts about who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.kernels.attention import attention
from jaxlm.models.layers import keep_mask

KEY = jax.random.key(3)
B, L, T, H, K = 2, 3, 5, 4, 8
LENGTHS = np.array([5, 2])
SEGMENTS = np.array([[1, 1, 2, 2, 0], [1, 0, 1, 1, 1]])


def inputs(queries=T):
    shapes = (B, queries, H, K), (B, T, H, K), (B, T, H, K)
    keys = jax.random.split(KEY, 3)
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def by_formula(q, k, v, seen=True):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    score = np.einsum("blhk,bthk->bhlt", q, k) * K**-0.5
    p = np.exp(score) * np.broadcast_to(seen, (B, len(q[0]), T))[:, None]
    return np.einsum("bhlt,bthk->blhk", p / p.sum(-1, keepdims=True), v)


AT = np.arange(T)
CAUSAL = AT[None] <= AT[:, None]
NEAR = np.abs(AT[None] - AT[:, None])
SAME = SEGMENTS[:, :, None] == SEGMENTS[:, None]
CASES = {
    "all": ({}, True),
    "causal": ({"causal": True}, CAUSAL),
    "window": ({"window": 2}, NEAR < 2),
    "causal window": ({"causal": True, "window": 2}, CAUSAL & (NEAR < 2)),
    "lengths": ({"lengths": LENGTHS}, (AT[None] < LENGTHS[:, None])[:, None]),
    "segments": ({"segments": SEGMENTS}, SAME),
    "causal segments": ({"causal": True, "segments": SEGMENTS}, SAME & CAUSAL),
}


@pytest.mark.parametrize("name", CASES)
def test_each_query_sees_what_the_facts_say(name):
    facts, seen = CASES[name]
    arrays = {"segments", "lengths"} & set(facts)
    facts = {**facts, **{name: jnp.asarray(facts[name]) for name in arrays}}
    got = attention(*inputs(), **facts)
    np.testing.assert_allclose(got, by_formula(*inputs(), seen), atol=1e-5)


@pytest.mark.parametrize("offset", [0, 2])
def test_queries_of_a_cached_decoder_are_the_last_rows_of_the_whole(offset):
    q, k, v = inputs()
    facts = {"causal": True, "window": 4, "segments": jnp.asarray(SEGMENTS)}
    whole = attention(q, k, v, **facts)
    some = slice(offset, offset + L)
    run = jax.jit(lambda offset: attention(q[:, some], k, v, offset=offset, **facts))
    np.testing.assert_allclose(run(offset), whole[:, some], atol=1e-6)


def test_a_query_that_may_attend_to_nothing_gives_no_nan():
    def total(*x):
        return attention(*x, lengths=jnp.zeros(B, jnp.int32)).sum()

    value, grads = jax.value_and_grad(total, (0, 1, 2))(*inputs())
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in grads)


def test_dropout_differs_by_row_head_query_and_key():
    # No mask is shared over heads or rows (transformers' Flax BERT shared it).
    drop = lambda p: jnp.where(keep_mask(KEY, p.shape, 0.5), p, 0)  # noqa: E731
    q = jnp.zeros((8, 16, 4, 16))
    v = jnp.broadcast_to(jnp.eye(16)[None, :, None], q.shape)
    keep_BLHT = attention(q, q, v, dropout=drop) != 0  # v tells the keys apart
    want_BHLT = keep_mask(KEY, (8, 4, 16, 16), 0.5)
    np.testing.assert_array_equal(keep_BLHT.transpose(0, 2, 1, 3), want_BHLT)
    for axis in range(4):
        same = (want_BHLT == jnp.roll(want_BHLT, 1, axis)).mean()
        assert abs(same - 0.5) < 0.05, f"masks are alike along axis {axis}"


def test_bfloat16_has_its_softmax_in_float32():
    q, k, v = inputs()
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    got = attention(*half, causal=True)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        got.astype(jnp.float32), by_formula(*half, CAUSAL), atol=0.03
    )
