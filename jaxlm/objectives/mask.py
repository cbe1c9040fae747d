"""A row → the masked row and its prediction targets.

BERT's rule (google-research/bert, create_pretraining_data.py:
create_masked_lm_predictions), drawn from the row's own key:

    tokens    [CLS]  the   gold ##en  hare  slept  [SEP]
    unit        -     0      1    1     2     3      -      with whole words
    chosen      .     .      x    x     .     .      .      n = round(.15 · 7) → 1, so a
                                                            unit of two is skipped …
    chosen      .     .      .    .     x     .      .      … and the next one tried

These follow the reference exactly: the number of targets (Python's rounding of rate ·
length with [CLS] and [SEP] counted, at least 1, at most P); a unit that would exceed it
is skipped; and each token, even inside a word, becomes [MASK] (80 %), stays (10 %) or
becomes a random token of the vocabulary (10 %).

ERNIE's rule (PaddlePaddle/ERNIE, batching.py: mask) differs: every unit is hidden
independently with probability .15 (`choose_each`), and the units of a row are either
its tokens, its phrases or its entities (`unit_starts`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from jaxlm.types import Mark, SpecialTokens


class Masked(NamedTuple):
    """A masked row with its targets. Under vmap each field gets a leading axis B."""

    tokens: Int[Array, "L"]
    predictions: Int[Array, "P"]  # positions, ascending; 0 where the weight is 0
    targets: Int[Array, "P"]
    weights: Float[Array, "P"]


def target_counts(length: int, rate: float, most: int) -> np.ndarray:
    """The number of targets in a row of 0, 1, … `length` tokens, by Python's `round`.

    Computed in float64 on the host: .15 · 30 is 4.5 there and rounds to 4, as in BERT.
    """
    counts = [min(most, max(1, round(n * rate))) for n in range(length + 1)]
    return np.array(counts, np.int32)


def choose_units(
    key: Key[Array, ""],
    unit_start: Bool[Array, "L"],
    candidate: Bool[Array, "L"],
    budget: Int[Array, ""],
) -> Bool[Array, "L"]:
    """Choose whole units in random order, skipping those that exceed `budget` tokens.

    A unit runs from its start to the next one; only a `candidate` may be chosen.
    """
    length = unit_start.shape[-1]
    unit_L = jnp.cumsum(unit_start & candidate) - 1
    size_U = jnp.zeros(length, jnp.int32).at[unit_L].add(candidate, mode="drop")
    order_U = _position_of(jnp.sort(_random_order(key, size_U > 0)))

    def take(left, size):
        fits = (size > 0) & (size <= left)
        return left - jnp.where(fits, size, 0), fits

    _, taken_in_order = jax.lax.scan(take, budget, size_U[order_U], unroll=8)
    taken_U = jnp.zeros(length, bool).at[order_U].set(taken_in_order)
    return taken_U[unit_L] & candidate


def choose_each(
    key: Key[Array, ""],
    unit_start: Bool[Array, "L"],
    candidate: Bool[Array, "L"],
    rate: float | Float[Array, ""],
    most: int,
) -> Bool[Array, "L"]:
    """Choose each unit with probability `rate`, up to `most` tokens in all."""
    length = unit_start.shape[-1]
    unit_L = jnp.cumsum(unit_start & candidate) - 1
    drawn_U = jax.random.uniform(key, (length,)) < rate
    chosen_L = drawn_U[unit_L] & candidate & (unit_L >= 0)
    size_U = jnp.zeros(length, jnp.int32).at[unit_L].add(chosen_L, mode="drop")
    fits_U = jnp.cumsum(size_U) <= most
    return chosen_L & fits_U[unit_L]


def unit_starts(marks: UInt[Array, "L"], level: Int[Array, ""]) -> Bool[Array, "L"]:
    """True where units begin: tokens (level 0), phrases (1) or entities (2).

    Outside phrases and entities, words are the units. `marks` are bits of `types.Mark`.
    """

    def cut(start: Mark, inside: Mark) -> Array:
        within = (marks & inside) > 0
        changes = within != jnp.concatenate([jnp.zeros(1, bool), within[:-1]])
        word = (marks & Mark.WORD) > 0
        return ((marks & start) > 0) | changes | (~within & word)

    phrases = cut(Mark.PHRASE, Mark.IN_PHRASE)
    entities = cut(Mark.ENTITY, Mark.IN_ENTITY)
    return jnp.stack([jnp.ones(marks.shape, bool), phrases, entities])[level]


def choose_tokens(
    key: Key[Array, ""], candidate: Bool[Array, "L"], budget: Int[Array, ""]
) -> Bool[Array, "L"]:
    """`choose_units` for units of one token: the first `budget` in random order."""
    order_L = _random_order(key, candidate)
    return candidate & (order_L <= jnp.sort(order_L)[budget - 1])


def _random_order(key, candidate):
    """A distinct number for each position: random for candidates, larger for the rest.

    The low bits hold the position (`_position_of`), so a single array is sorted: on a
    CPU, a sort that carries indices takes six times as long.
    """
    length = candidate.shape[-1]
    low = (length - 1).bit_length()
    random = jax.random.bits(key, (length,), jnp.uint32) >> (low + 1) << low
    other = jnp.where(candidate, 0, jnp.uint32(1 << 31))
    return other | random | jnp.arange(length, dtype=jnp.uint32)


def _position_of(order):
    low = (order.shape[-1] - 1).bit_length()
    return (order & (2**low - 1)).astype(jnp.int32)


def mask_row(
    key: Key[Array, ""],
    tokens: Int[Array, "L"],
    chosen: Bool[Array, "L"],
    *,
    predictions: int,
    special: SpecialTokens,
) -> Masked:
    """Replace the chosen tokens and gather the originals as targets.

    At most P = `predictions` tokens are `chosen`. Each becomes [MASK] (80 %), a random
    token (10 %) or stays (10 %), independently even within a unit, as published.
    """
    length = tokens.shape[-1]
    which, other = jax.random.split(key)
    # The p-th target is where the count of chosen tokens reaches p; L if there is none.
    at_P = jnp.searchsorted(jnp.cumsum(chosen), jnp.arange(predictions) + 1)
    there_P = at_P < length
    targets = tokens.at[at_P].get(mode="fill", fill_value=0)
    draw = jax.random.uniform(which, (predictions,))
    random = jax.random.randint(other, (predictions,), 0, special.vocab_size)
    stay = jnp.where(draw < 0.9, targets, random)
    return Masked(
        tokens=tokens.at[at_P].set(
            jnp.where(draw < 0.8, special.mask, stay), mode="drop"
        ),
        predictions=jnp.where(there_P, at_P, 0),
        targets=targets,
        weights=there_P.astype(jnp.float32),
    )
