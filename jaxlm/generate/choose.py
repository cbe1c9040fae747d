"""Logits of the next token → a token: penalty, temperature, top-k, top-p, draw.

The order is that of openai/gpt-2 (src/sample.py) and transformers. The vocabulary is
never sorted. With top-k, later steps see only the k likeliest tokens and tokens tied
with the k-th, which both references keep (here at most 64 of them). The tokens of top-p
are found by bisection over the floats, which keeps or drops tied tokens together.

The two rules of top-p treat the token whose probability takes the sum past p:

    hf       keeps it: a token stays while those before it sum to less than p
    openai   drops it: a token stays while the sum including it is at most p
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jaxlm.generate.sampling import Sampling

_TIES = 64  # tokens beyond the k-th that may equal it


@struct.dataclass
class Choice:
    """How tokens are chosen. One program serves all values of the first four, uint32 []
    and float32 []; None leaves a step out."""

    seed: Any
    temperature: Any  # None: the likeliest token
    top_p: Any
    penalty: Any  # for tokens that occurred
    top_k: int = struct.field(pytree_node=False)  # 0: all
    rule: Literal["hf", "openai"] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, sampling: Sampling) -> "Choice":
        """The choice that settings of users ask for."""

        def unless(neutral: int, number: Any) -> np.ndarray | None:
            return None if number == neutral else np.asarray(number, np.float32)

        return cls(
            seed=np.asarray(sampling.seed, np.uint32),
            temperature=unless(0, sampling.temperature),
            top_p=unless(1, sampling.top_p),
            penalty=unless(1, sampling.repetition_penalty),
            top_k=sampling.top_k,
            rule=sampling.top_p_rule,
        )


def choose(
    logits_BV: Float[Array, "B V"],
    keys_B: Key[Array, "B"],
    choice: Choice,
    seen_BV: Bool[Array, "B V"] | None = None,
) -> Int[Array, "B"]:
    """A token for each row, which depends only on the row's own logits and key.

    `seen_BV` has True for tokens that occurred, for the repetition penalty.
    """
    if choice.penalty is not None and seen_BV is not None:
        penalty = choice.penalty
        lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = jnp.where(seen_BV, lower_BV, logits_BV)
    if choice.temperature is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    scores, tokens_BK, k = logits_BV / choice.temperature, None, choice.top_k
    if 0 < k < scores.shape[1]:
        scores, tokens_BK = largest(scores, min(k + _TIES, scores.shape[1]))
        scores = jnp.where(scores >= scores[:, k - 1 : k], scores, -jnp.inf)
    if choice.top_p is not None:
        kept = nucleus(scores, choice.top_p, choice.rule)
        scores = jnp.where(kept, scores, -jnp.inf)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys_B)
    index_B = jnp.argmax(scores + noise, axis=-1).astype(jnp.int32)
    if tokens_BK is None:
        return index_B
    return jnp.take_along_axis(tokens_BK, index_B[:, None], axis=1)[:, 0]


def largest(x: Float[Array, "B n"], k: int) -> tuple[Array, Array]:
    """As `jax.lax.top_k`: (the k largest of each row in falling order, their indices).

    Without the barrier XLA's CPU backend fuses the top-k with later operations, no
    longer recognises it and sorts the whole row: 12 ms instead of 0.1 for a vocabulary
    of 50,257.
    """
    values, indices = jax.lax.optimization_barrier(jax.lax.top_k(x, k))
    return values, indices


def nucleus(
    scores_BV: Float[Array, "B V"],
    p: Any,  # float32 []
    rule: Literal["hf", "openai"],
) -> Bool[Array, "B V"]:
    """True for tokens that top-p keeps; tokens with equal scores are treated alike."""
    share_BV = jax.nn.softmax(scores_BV, axis=-1)
    # The bits of floats that are not negative have the order of the floats.
    order_BV = jax.lax.bitcast_convert_type(share_BV, jnp.int32)

    def halve(_, bounds):
        low_B1, high_B1 = bounds  # tokens of order `high` are kept, of `low` are not
        middle_B1 = (low_B1 & high_B1) + ((low_B1 ^ high_B1) >> 1)  # no overflow
        sum_B1 = jnp.where(order_BV > middle_B1, share_BV, 0.0).sum(-1, keepdims=True)
        kept = sum_B1 < p
        if rule == "openai":
            own = jnp.where(order_BV == middle_B1, share_BV, 0.0)
            kept = sum_B1 + own.max(-1, keepdims=True) <= p
        low_B1 = jnp.where(kept, low_B1, middle_B1)
        return low_B1, jnp.where(kept, middle_B1, high_B1)

    # The likeliest token is always kept.
    bounds = order_BV.min(-1, keepdims=True) - 1, order_BV.max(-1, keepdims=True)
    return order_BV >= jax.lax.fori_loop(0, 32, halve, bounds)[1]
