"""Logits of the next token → a token: penalty, temperature, top-k, top-p, draw.

The order is that of openai/gpt-2 (src/sample.py) and transformers. The vocabulary is
never sorted. With top-k, the later steps see only the k tokens and those that equal the
k-th, which both references keep (at most 64 of these ties are kept). Without top-k, the
tokens that top-p keeps are found by bisection over the floats, which keeps or drops
equal tokens together.

The two rules of top-p treat the token whose probability takes the sum past p:

    hf       keeps it: a token stays while those before it sum to less than p
    openai   drops it: a token stays while the sum including it is at most p
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxlm.generate.sampling import TokenChoice

_TIES = 64  # tokens beyond the k-th that may equal it


def choose(
    logits_BV: Float[Array, "B V"],
    keys_B: Key[Array, "B"],
    choice: TokenChoice,
    seen_BV: Bool[Array, "B V"] | None = None,
) -> Int[Array, "B"]:
    """A token for each row, which depends only on the row's own logits and key.

    `seen_BV` says which tokens occurred, for the repetition penalty.
    """
    if choice.repetition_penalty != 1 and seen_BV is not None:
        penalty = choice.repetition_penalty
        lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = jnp.where(seen_BV, lower_BV, logits_BV)
    if choice.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    scores = logits_BV / choice.temperature
    if 0 < choice.top_k < logits_BV.shape[-1]:
        k = choice.top_k
        scores_BK, tokens_BK = largest(scores, min(k + _TIES, scores.shape[1]))
        scores_BK = jnp.where(scores_BK >= scores_BK[:, k - 1 : k], scores_BK, -jnp.inf)
        if choice.top_p < 1:
            kept = sorted_nucleus(scores_BK, choice.top_p, choice.top_p_rule)
            scores_BK = jnp.where(kept, scores_BK, -jnp.inf)
        index_B1 = _draw(scores_BK, keys_B)[:, None]
        return jnp.take_along_axis(tokens_BK, index_B1, axis=1)[:, 0]
    if choice.top_p < 1:
        kept = nucleus(scores, choice.top_p, choice.top_p_rule)
        scores = jnp.where(kept, scores, -jnp.inf)
    return _draw(scores, keys_B)


def _draw(scores: Float[Array, "B n"], keys_B: Key[Array, "B"]) -> Int[Array, "B"]:
    """An index into each row, drawn with probabilities softmax(scores)."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys_B)
    return jnp.argmax(scores + noise, axis=-1).astype(jnp.int32)


def largest(x: Float[Array, "B n"], k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k`: the k largest of each row in falling order, and their indices.

    Without the barrier XLA's CPU backend fuses the top-k with later operations, no
    longer recognises it and sorts the whole row: 12 ms instead of 0.1 for a vocabulary
    of 50,257.
    """
    values, indices = jax.lax.optimization_barrier(jax.lax.top_k(x, k))
    return values, indices


def sorted_nucleus(
    scores_BK: Float[Array, "B K"], p: float, rule: Literal["hf", "openai"]
) -> Bool[Array, "B K"]:
    """True for the scores that top-p keeps; they come in falling order."""
    share_BK = jax.nn.softmax(scores_BK, axis=-1)
    sum_BK = jnp.cumsum(share_BK, axis=-1)
    kept = sum_BK - share_BK < p if rule == "hf" else sum_BK <= p
    return kept.at[:, 0].set(True)


def nucleus(
    scores_BV: Float[Array, "B V"], p: float, rule: Literal["hf", "openai"]
) -> Bool[Array, "B V"]:
    """True for the tokens that top-p keeps; it treats equal tokens alike."""
    share_BV = jax.nn.softmax(scores_BV, axis=-1)
    # The bits of floats that are not negative have the order of the floats.
    order_BV = jax.lax.bitcast_convert_type(share_BV, jnp.int32)

    def kept(x_B1):
        above_B = jnp.where(order_BV > x_B1, share_BV, 0.0).sum(-1)
        if rule == "hf":
            return above_B < p
        own_B = jnp.where(order_BV == x_B1, share_BV, 0.0).max(-1)
        return above_B + own_B <= p

    return order_BV >= _smallest(order_BV, kept)


def _smallest(order_BV: Int[Array, "B V"], kept: Callable) -> Int[Array, "B 1"]:
    """The smallest integer x for which `kept(x)` holds, as it does for all above.

    At most the row's highest value, since top-p always keeps the likeliest token.
    """

    def halve(_, bounds):
        low, high = bounds  # `high` is kept, `low` is not
        middle = (low & high) + ((low ^ high) >> 1)  # no overflow
        good = kept(middle)[:, None]
        return jnp.where(good, low, middle), jnp.where(good, middle, high)

    top_B1 = order_BV.max(-1, keepdims=True)
    start = order_BV.min(-1, keepdims=True) - 1, top_B1
    return jax.lax.fori_loop(0, 32, halve, start)[1]
