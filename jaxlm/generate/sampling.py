"""Logits of the next token → a token: penalty, temperature, top-k, top-p, draw.

The order is that of openai/gpt-2 (src/sample.py) and transformers. Nothing here sorts
the vocabulary. With top-k, all that follows is done on the k tokens and on those that
equal the k-th, which both references keep (of very many equal ones, the first 64).
Without, what top-p keeps is found by bisection over the floats, which keeps or drops
equal tokens together.

The two rules of top-p, for the token whose probability takes the sum past p:

    hf       keeps it: a token stays while those before it sum to less than p
    openai   drops it: a token stays while the sum including it is at most p
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxlm.types import UserError

_TIES = 64  # tokens beyond the k-th that may equal it


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits."""

    temperature: float = 1.0
    """Divides the logits; 0: the likeliest token, nothing is drawn."""
    top_k: int = 0
    """Keep the k likeliest tokens and those that equal the k-th; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that make up this probability; 1: all."""
    top_p_rule: Literal["hf", "openai"] = "hf"
    """Whether the token that takes the sum past top_p is kept (hf) or not (openai)."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that occurred, multiplies the negative ones
    (CTRL, Keskar et al. 2019); 1: none."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature = {self.temperature} is negative")
        if self.top_k < 0:
            raise UserError(f"top_k = {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p} is not in (0, 1]")
        if self.repetition_penalty <= 0:
            raise UserError(
                f"repetition_penalty = {self.repetition_penalty} is not positive"
            )


def choose(
    logits_BV: Float[Array, "B V"],
    keys_B: Key[Array, "B"],
    sampling: Sampling,
    seen_BV: Bool[Array, "B V"] | None = None,
) -> Int[Array, "B"]:
    """A token for each row; its draw depends on the row's own logits and key alone.

    Args:
        logits_BV: float32.
        keys_B: chance of each row.
        sampling: the rule.
        seen_BV: tokens that occurred, for the repetition penalty.
    """
    if sampling.repetition_penalty != 1 and seen_BV is not None:
        logits_BV = penalised(logits_BV, seen_BV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    scores = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        k = sampling.top_k
        scores_BK, tokens_BK = largest(scores, min(k + _TIES, scores.shape[1]))
        scores_BK = jnp.where(scores_BK >= scores_BK[:, k - 1 : k], scores_BK, -jnp.inf)
        if sampling.top_p < 1:
            kept = first_of(scores_BK, sampling.top_p, sampling.top_p_rule)
            scores_BK = jnp.where(kept, scores_BK, -jnp.inf)
        place_B1 = _draw(scores_BK, keys_B)[:, None]
        return jnp.take_along_axis(tokens_BK, place_B1, axis=1)[:, 0]
    if sampling.top_p < 1:
        kept = nucleus(scores, sampling.top_p, sampling.top_p_rule)
        scores = jnp.where(kept, scores, -jnp.inf)
    return _draw(scores, keys_B)


def _draw(scores: Float[Array, "B n"], keys_B: Key[Array, "B"]) -> Int[Array, "B"]:
    """A place of each row, with probabilities softmax(scores)."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys_B)
    return jnp.argmax(scores + noise, axis=-1).astype(jnp.int32)


def penalised(
    logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """The logits of `seen` tokens moved down by a factor."""
    lower = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lower, logits_BV)


def largest(x: Float[Array, "B n"], k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k`: the k largest of each row, falling, and their places.

    The barrier keeps XLA's CPU backend from mixing what follows into the top-k, which
    it then no longer knows and makes a sort of the whole row: 12 ms and not 0.1 for a
    vocabulary of 50,257.
    """
    values, places = jax.lax.optimization_barrier(jax.lax.top_k(x, k))
    return values, places


def first_of(
    scores_BK: Float[Array, "B K"], p: float, rule: Literal["hf", "openai"]
) -> Bool[Array, "B K"]:
    """True for those of falling scores that top-p keeps; the first one always."""
    share_BK = jax.nn.softmax(scores_BK, axis=-1)
    sum_BK = jnp.cumsum(share_BK, axis=-1)
    kept = sum_BK - share_BK < p if rule == "hf" else sum_BK <= p
    return kept.at[:, 0].set(True)


def nucleus(
    scores_BV: Float[Array, "B V"], p: float, rule: Literal["hf", "openai"]
) -> Bool[Array, "B V"]:
    """True for the tokens that top-p keeps, of equal ones all or none."""
    share_BV = jax.nn.softmax(scores_BV, axis=-1)
    order_BV = _order(share_BV)

    def stays(x_B1):
        above_B = jnp.where(order_BV > x_B1, share_BV, 0.0).sum(-1)
        if rule == "hf":
            return above_B < p
        own_B = jnp.where(order_BV == x_B1, share_BV, 0.0).max(-1)
        return above_B + own_B <= p

    return order_BV >= _least(order_BV, stays)


def _order(x: Float[Array, "B V"]) -> Int[Array, "B V"]:
    """Integers that are ordered as the floats are."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _least(order_BV: Int[Array, "B V"], stays: Callable) -> Int[Array, "B 1"]:
    """The least integer x for which `stays(x)`, which holds from there up.

    At most the row's highest value: the likeliest token stays whatever the rule.
    """

    def halve(_, bounds):
        low, high = bounds  # `high` stays, `low` does not
        middle = (low & high) + ((low ^ high) >> 1)  # no overflow
        good = stays(middle)[:, None]
        return jnp.where(good, low, middle), jnp.where(good, middle, high)

    top_B1 = order_BV.max(-1, keepdims=True)
    start = order_BV.min(-1, keepdims=True) - 1, top_B1
    return jax.lax.fori_loop(0, 32, halve, start)[1]
