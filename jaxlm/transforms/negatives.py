"""A key → distinct negative words for ELMo's sampled softmax, common words more often.

This is TensorFlow's `log_uniform_candidate_sampler` with `unique=True`, the sampler of
`tf.nn.sampled_softmax_loss`. Word k of V, by falling frequency, has probability

    p(k) = log((k + 2) / (k + 1)) / log(V + 1)

and words are drawn until S of them are distinct. After n draws, a word is in the sample
with probability 1 - (1 - p)ⁿ.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.types import UserError


class Negatives(NamedTuple):
    """One sample of words."""

    words: Int[Array, "S"]
    drawn: Bool[Array, "S"]  # False: padding, where the draws gave fewer than S words
    draws: Float[Array, ""]  # n, the number of draws until S were distinct


def draw_negatives(key: Array, count: int, vocab_size: int) -> Negatives:
    """S = `count` distinct words of a vocabulary in order of falling frequency.

    Raises:
        UserError: `count` is more than half of the vocabulary.
    """
    most = enough_draws(count, vocab_size)
    uniform = jax.random.uniform(key, (most,))
    drawn = jnp.exp(uniform * math.log(vocab_size + 1)).astype(jnp.int32) - 1
    drawn = jnp.clip(drawn, 0, vocab_size - 1)
    order = jnp.argsort(drawn, stable=True)
    ranked = drawn[order]
    new = jnp.concatenate([jnp.ones(1, bool), ranked[1:] != ranked[:-1]])
    first = jnp.zeros(most, bool).at[order].set(new)
    found = jnp.cumsum(first)
    (at,) = jnp.nonzero(first & (found <= count), size=count, fill_value=most)
    draws = jnp.minimum(jnp.sum(found < count) + 1, most)
    return Negatives(
        words=jnp.where(at < most, drawn[jnp.minimum(at, most - 1)], vocab_size),
        drawn=at < most,
        draws=draws.astype(jnp.float32),
    )


def log_expected(
    words: Int[Array, "*n"], draws: Float[Array, ""], vocab_size: int
) -> Float[Array, "*n"]:
    """The log probability that a word is in a sample of `draws` draws."""
    rank = words.astype(jnp.float32)
    p = jnp.log1p(1 / (rank + 1)) / math.log(vocab_size + 1)
    return jnp.log(-jnp.expm1(draws * jnp.log1p(-p)))


@functools.cache
def enough_draws(count: int, vocab_size: int) -> int:
    """Draws that give `count` distinct words, except with probability below 10⁻⁸."""
    if not 0 < count <= vocab_size // 2:
        raise UserError(
            f"data.negatives = {count} is not at most half of model.vocab_size = "
            f"{vocab_size}: 0 takes the whole vocabulary"
        )
    rank = np.arange(vocab_size)
    p = np.log1p(1 / (rank + 1.0)) / math.log(vocab_size + 1)
    # The number of distinct words has a variance below its mean, so six deviations are
    # enough. Near the size of the vocabulary a sample may fall short: see `drawn`.
    enough = min(count + 6 * math.sqrt(count), (count + vocab_size) / 2)
    draws = count
    while -np.expm1(draws * np.log1p(-p)).sum() < enough:
        draws = draws * 9 // 8 + 1
    return draws
