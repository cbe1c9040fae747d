"""Attention: queries, keys, values and what each query may see → outputs.

    lengths (2, 3)   causal    window 2   segments 1 1 2, causal   offset 1, causal
    1 1 0            1 0 0     1 1 0      1 0 0                    1 1 0
    1 1 0            1 1 0     1 1 1      1 1 0                    1 1 1
    …                1 1 1     0 1 1      0 0 1

Callers pass these facts and not a mask, because a fused kernel needs the facts.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlm.mesh import joined, parted
from jaxlm.models.kernels.fused import Call, Road, choose, fused, score_scale

# Finite, so that a query that sees nothing becomes uniform and not NaN.
NEG_INF = float(jnp.finfo(jnp.float32).min)


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    *,
    causal: bool = False,
    causal_rows: int = 0,
    window: int | None = None,
    local: Bool[Array, ""] | None = None,
    segments: Int[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    offset: int | Int[Array, ""] = 0,
    dropout: Any = None,
    road: Road = "auto",
) -> Float[Array, "B L H K"]:
    """Softmax attention, with the softmax in float32.

    Args:
        causal: query l sees only keys t ≤ offset + l.
        causal_rows: so many rows are causal, the first ones by `mesh.joined`.
        window: a query sees only keys at a distance below `window`.
        local: whether the window holds, in a loop over layers; None: it does.
        segments: the segment of each key; a query sees only its own segment.
        lengths: number of keys in each row; later keys are padding.
        offset: the position of query 0 among the keys, in a decoder with a cache.
        dropout: of the probabilities, a `layers.Dropout`. BERT drops each element
            independently; a mask shared by heads or rows, as in Hugging Face's Flax
            port, differs from that.
        road: the kernel (`fused.py`); auto: the best one that can take the call.
    """
    facts: dict[str, Any] = {"dropout": dropout, "road": road}
    if 0 < causal_rows < len(q_BLHK):
        facts |= {"window": window, "local": local}
        of_rows = q_BLHK, k_BTHK, v_BTHK, {"segments": segments, "lengths": lengths}
        (*qkv, first), (*others, rest) = parted(of_rows, causal_rows)
        y_BLHK = attention(*qkv, causal=True, **first, **facts)
        return joined(y_BLHK, attention(*others, **rest, **facts))
    causal = causal or causal_rows > 0
    length, keys = q_BLHK.shape[1], k_BTHK.shape[1]
    if window is not None and isinstance(keys, int) and keys <= window:
        window = local = None  # no key is farther
    two_sided = window is not None and not causal
    other = "dropout" if dropout else ""
    if length != keys or not isinstance(offset, int) or offset:
        other = "cache"
    call = Call(q_BLHK.shape, q_BLHK.dtype, segments is not None, two_sided, other)
    taken, _ = choose(road, call)
    far, _ = choose(road, call._replace(two_sided=False))
    banded = two_sided and other != "cache"
    banded = banded and isinstance(length, int) and length > 4 * window
    if local is not None and (banded or {taken, far} != {"plain"}):
        facts |= {"causal": causal, "segments": segments, "lengths": lengths}
        facts["dropout"] = dropout and dropout.drawn()
        whole = functools.partial(attention, **facts)
        near = functools.partial(whole, window=window)
        return jax.lax.cond(local, near, whole, q_BLHK, k_BTHK, v_BTHK)
    if taken != "plain":
        facts = {"causal": causal, "window": window}
        return fused(taken, q_BLHK, k_BTHK, v_BTHK, segments, lengths, **facts)
    if banded:
        return _banded(q_BLHK, k_BTHK, v_BTHK, window, segments, lengths, dropout)
    facts = {"causal": causal, "window": window, "local": local, "offset": offset}
    facts |= {"segments": segments, "lengths": lengths}
    p_BHLT = probabilities(q_BLHK, k_BTHK, v_BTHK.dtype, **facts)
    if dropout is not None:
        p_BHLT = dropout(p_BHLT)
    return jnp.einsum("bhlt,bthk->blhk", p_BHLT, v_BTHK)


def probabilities(
    q_BLHK: Float[Array, "B L H K"],
    k_BTHK: Float[Array, "B T H K"],
    dtype: Any = jnp.float32,
    *,
    causal: bool = False,
    window: int | None = None,
    local: Bool[Array, ""] | None = None,
    segments: Int[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    offset: int | Int[Array, ""] = 0,
) -> Float[Array, "B H L T"]:
    """How much each query takes from each key, with all scores in memory: what the
    plain road of `attention` multiplies, which explains the facts."""
    length, keys, scale = q_BLHK.shape[1], k_BTHK.shape[1], score_scale(q_BLHK)
    slot_T = jnp.arange(keys)
    if isinstance(offset, int):  # not of a decoder
        # Else who sees whom depends on no layer, and the loop over layers would take it
        # from outside, as an array [B, L, T]. Thus it is computed beside the scores.
        slot_T, segments, _ = jax.lax.optimization_barrier(
            (slot_T, segments, jax.lax.stop_gradient(k_BTHK))
        )
    query_L1, key_1T = jnp.arange(length)[:, None] + offset, slot_T[None]
    seen = []  # True where a query sees a key, each [#B, #L, T]
    if causal:
        seen.append((key_1T <= query_L1)[None])
    if window is not None:
        near_1LT = (jnp.abs(query_L1 - key_1T) < window)[None]
        seen.append(near_1LT if local is None else near_1LT | ~local)
    if segments is not None:
        own_BL = segments  # of the queries; a length may be a symbol here
        if length != keys:
            own_BL = jax.lax.dynamic_slice_in_dim(segments, offset, length, axis=1)
        seen.append(own_BL[:, :, None] == segments[:, None])
    if lengths is not None:
        seen.append((key_1T < lengths[:, None])[:, None])

    score_BHLT = jnp.einsum("blhk,bthk->bhlt", q_BLHK * scale, k_BTHK)
    seen_BLT = functools.reduce(jnp.logical_and, seen) if seen else None
    return _softmax(score_BHLT.astype(jnp.float32), seen_BLT, dtype)


def _banded(q_BLHK, k_BLHK, v_BLHK, window, segments, lengths, dropout):
    """Attention through a window to both sides: each block of queries sees its own keys
    and those of the blocks beside it.

    window 3    queries  0 1 │ 2 3 │ 4 5     2 sees 0 1 2 3 4, and 3 sees 1 2 3 4 5
                keys     0 1   2 3   4 5     of these three blocks

    Scores are [B, H, L, 3 (window - 1)]. Padding is a segment of its own, as in splash.
    """
    rows, length, *head = q_BLHK.shape
    block = max(1, window - 1)
    blocks = -(-length // block)
    ids = jnp.ones((rows, length), jnp.int32) if segments is None else segments
    if lengths is not None:
        ids = jnp.where(jnp.arange(length)[None] < lengths[:, None], ids, -1)

    def cut(x: Array, beside: int, fill: int = 0) -> Array:
        """[B, L, …] → [B · blocks, (2 beside + 1) block, …]."""
        ends = beside * block, (blocks + beside) * block - length
        x = jnp.pad(x, ((0, 0), ends, *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
        x = x.reshape(rows, -1, block, *x.shape[2:])
        parts = [x[:, i : i + blocks] for i in range(2 * beside + 1)]
        x = jnp.concatenate(parts, axis=2)
        return x.reshape(-1, *x.shape[2:])

    k, v, ids = cut(k_BLHK, 1), cut(v_BLHK, 1), cut(ids, 1, -2)
    facts: Any = {"segments": ids, "window": window, "offset": block}
    y = attention(cut(q_BLHK, 0), k, v, dropout=dropout, **facts)
    return y.reshape(rows, -1, *head)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _softmax(score_BHLT: Array, seen_BLT: Array | None, dtype: Any) -> Array:
    """The softmax over the keys that are seen, in `dtype`, which is all that is kept
    for the backward pass: neither the scores nor who sees whom."""
    if seen_BLT is not None:
        score_BHLT = jnp.where(seen_BLT[:, None], score_BHLT, NEG_INF)
    return jax.nn.softmax(score_BHLT).astype(dtype)


def _softmax_forward(score_BHLT, seen_BLT, dtype):
    p_BHLT = _softmax(score_BHLT, seen_BLT, dtype)
    return p_BHLT, p_BHLT


def _softmax_backward(dtype, p_BHLT, dp_BHLT):
    p_BHLT, dp_BHLT = (x.astype(jnp.float32) for x in (p_BHLT, dp_BHLT))
    mean_BHL1 = jnp.sum(p_BHLT * dp_BHLT, axis=-1, keepdims=True)
    return p_BHLT * (dp_BHLT - mean_BHL1), None


_softmax.defvjp(_softmax_forward, _softmax_backward)
