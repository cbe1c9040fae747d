"""Attention: queries, keys, values and what each query may see → outputs.

    lengths (2, 3)   causal    window 2   segments 1 1 2, causal   offset 1, causal
    1 1 0            1 0 0     1 1 0      1 0 0                    1 1 0
    1 1 0            1 1 0     1 1 1      1 1 0                    1 1 1
    …                1 1 1     0 1 1      0 0 1

Callers pass these facts and not a mask, because a fused kernel needs the facts.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Finite, so that a query that sees nothing becomes uniform and not NaN.
NEG_INF = float(jnp.finfo(jnp.float32).min)


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    *,
    causal: bool = False,
    window: int | None = None,
    segments: Int[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    offset: int | Int[Array, ""] = 0,
    scale: float | None = None,
    bias: Float[Array, "#B #H L T"] | None = None,
    dropout: Callable[[Array], Array] | None = None,
) -> Float[Array, "B L H K"]:
    """Softmax attention, with the softmax in float32.

    Args:
        causal: query l sees only keys t ≤ offset + l.
        window: a query sees only keys at a distance below `window`.
        segments: the segment of each key; a query sees only its own segment.
        lengths: number of keys in each row; later keys are padding.
        offset: the position of query 0 among the keys, in a decoder with a cache.
        scale: factor of the scores; None: 1 / √K.
        bias: added to the scores.
        dropout: of the probabilities. BERT drops each element independently; a mask
            shared by heads or rows, as in Hugging Face's Flax port, differs from that.
    """
    length, keys, width = q_BLHK.shape[1], k_BTHK.shape[1], q_BLHK.shape[3]
    query_L1, key_1T = jnp.arange(length)[:, None] + offset, jnp.arange(keys)[None]
    facts = []  # True where a query sees a key, each [#B, #L, T]
    if causal:
        facts.append((key_1T <= query_L1)[None])
    if window is not None:
        facts.append((jnp.abs(query_L1 - key_1T) < window)[None])
    if segments is not None:
        own_BL = segments  # of the queries; a length may be a symbol here
        if length != keys:
            own_BL = jax.lax.dynamic_slice_in_dim(segments, offset, length, axis=1)
        facts.append(own_BL[:, :, None] == segments[:, None])
    if lengths is not None:
        facts.append((key_1T < lengths[:, None])[:, None])

    scale = 1 / math.sqrt(width) if scale is None else scale
    score_BHLT = jnp.einsum("blhk,bthk->bhlt", q_BLHK * scale, k_BTHK)
    score_BHLT = score_BHLT.astype(jnp.float32)
    if bias is not None:
        score_BHLT += bias
    if facts:
        seen = functools.reduce(jnp.logical_and, facts)
        score_BHLT = jnp.where(seen[:, None], score_BHLT, NEG_INF)
    p_BHLT = jax.nn.softmax(score_BHLT).astype(v_BTHK.dtype)
    if dropout is not None:
        p_BHLT = dropout(p_BHLT)
    return jnp.einsum("bhlt,bthk->blhk", p_BHLT, v_BTHK)
