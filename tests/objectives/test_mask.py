"""Masks against the plain-Python reference: exact where it is, else in law."""

from __future__ import annotations

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.bert_data import Reference
from reference.numbered import FIRST
from reference.units import Overrun, Stop, units_of
from scipy.stats import binom, chisquare

from jaxlm.keys import key_for
from jaxlm.objectives.mask import (
    _position_of,
    _random_order,
    choose_each,
    choose_tokens,
    choose_units,
    mask_row,
    target_counts,
    unit_starts,
)
from jaxlm.types import Mark, SpecialTokens

RARE = 1e-8  # how unlikely a sound draw must be before a test calls it wrong


def keys(count: int):
    return key_for(0, "test", np.arange(count))


# How many tokens are predicted.


@pytest.mark.parametrize(
    ("rate", "most"), [(0.15, 20), (0.15, 80), (0.3, 40), (0.5, 1)]
)
def test_the_number_of_targets_is_the_published_rounding(rate, most):
    reference = Reference(mask_rate=rate, predictions=most)
    expected = [reference.budget(length) for length in range(513)]
    assert target_counts(512, rate, most).tolist() == expected


def test_the_rounding_is_pythons():
    assert target_counts(30, 0.15, 20)[[0, 3, 10, 30]].tolist() == [1, 1, 2, 4]


# Which units are chosen.


def compositions(length: int) -> np.ndarray:
    """Every way to cut `length` tokens into units, as flags of where units begin."""
    rest = itertools.product((False, True), repeat=length - 1)
    return np.array([(True, *flags) for flags in rest])


def choices(length: int, draws: int):
    """Every composition, budget and `draws` orders: (units in order, budget, ours)."""
    start_BL = np.repeat(compositions(length), length * draws, axis=0)
    rows = len(start_BL)
    budget_B = np.resize(np.arange(1, length + 1, dtype=np.int32), rows)
    everything = np.ones((rows, length), bool)
    keys_B = keys(rows)
    chosen_BL = np.asarray(
        jax.jit(jax.vmap(choose_units))(keys_B, start_BL, everything, budget_B)
    )
    size_BU = np.stack(
        [np.bincount(np.cumsum(s) - 1, minlength=length) for s in start_BL]
    )
    order_BU = np.asarray(
        jax.vmap(lambda key, unit: _position_of(jnp.sort(_random_order(key, unit))))(
            keys_B, size_BU > 0
        )
    )
    for start, order, budget, chosen in zip(
        start_BL, order_BU, budget_B, chosen_BL, strict=True
    ):
        units = units_of(start, everything[0])
        yield (
            [units[u] for u in order if u < len(units)],
            int(budget),
            np.nonzero(chosen)[0].tolist(),
        )


def test_units_are_tried_as_published():
    ours = list(choices(8, 3))
    assert len(ours) == 128 * 8 * 3
    for order, budget, chosen in ours:
        assert chosen == Reference().choose(order, budget)
    for wrong in (Stop(), Overrun()):
        assert any(chosen != wrong.choose(*asked) for *asked, chosen in ours)


@st.composite
def rows_of_units(draw):
    length = draw(st.sampled_from([16, 64]))
    flags = st.lists(st.booleans(), min_size=length, max_size=length).map(np.array)
    candidate = draw(flags)
    start = draw(flags)
    # A stretch of candidates begins a unit, as A and B do.
    start = start | (candidate & ~np.roll(candidate, 1))
    start[0] |= candidate[0]
    return start, candidate, draw(st.integers(1, length)), draw(st.integers(0, 2**31))


choose_units_jitted = jax.jit(choose_units)
choose_tokens_jitted = jax.jit(choose_tokens)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(rows_of_units())
def test_words_are_never_split_and_the_budget_is_used(row):
    start, candidate, budget, seed = row
    key = jax.random.key(seed)
    chosen = np.asarray(choose_units_jitted(key, start, candidate, jnp.int32(budget)))
    assert not (chosen & ~candidate).any()
    units = units_of(start, candidate)
    whole = [unit for unit in units if chosen[unit].all()]
    assert chosen.sum() == sum(map(len, whole)) <= budget
    left = budget - chosen.sum()
    assert all(len(unit) > left for unit in units if unit not in whole)


choose_each_jitted = jax.jit(choose_each, static_argnums=(3, 4))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(rows_of_units())
def test_each_unit_is_hidden_whole_and_at_most_so_many_tokens(row):
    start, candidate, most, seed = row
    most = max(1, most // 8) * 8  # few programs
    key = jax.random.key(seed)
    chosen = np.asarray(choose_each_jitted(key, start, candidate, 0.5, most))
    assert not (chosen & ~candidate).any() and chosen.sum() <= most
    every = np.asarray(choose_each_jitted(key, start, candidate, 0.5, 10_000))
    units = units_of(start, candidate)
    taken = [unit for unit in units if every[unit].all()]
    assert every.sum() == sum(map(len, taken))
    fits, total = [], 0
    for unit in taken:  # in the order of the row, to the first that overruns
        total += len(unit)
        if total > most:
            break
        fits += unit
    assert np.flatnonzero(chosen).tolist() == fits


def test_each_unit_is_hidden_as_often_as_any_other():
    start = jnp.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    candidate = jnp.array([0, 0, 1, 1, 1, 1, 1, 0], bool)
    draw = jax.jit(jax.vmap(lambda key: choose_each(key, start, candidate, 0.15, 8)))
    chosen = np.asarray(draw(keys(20_000)))
    units = units_of(np.asarray(start), np.asarray(candidate))
    counts = [chosen[:, unit].all(1).sum() for unit in units]
    assert all(within(count, 20_000, 0.15) for count in counts)
    both = (chosen[:, units[0]].all(1) & chosen[:, units[1]].all(1)).sum()
    assert within(both, 20_000, 0.15**2)


def test_units_of_a_level_are_cut_at_its_starts_and_edges():
    w, p, q, e, i = (
        Mark.WORD,
        Mark.PHRASE,
        Mark.IN_PHRASE,
        Mark.ENTITY,
        Mark.IN_ENTITY,
    )
    #        的   中        国             银   行   ，   GP ##T
    marks = [w, w | p | q | e | i, q | i, w | p | q, q, w, w, 0]
    marks = jnp.asarray([int(m) for m in marks], jnp.uint8)
    starts = [
        np.flatnonzero(unit_starts(marks, jnp.int32(k))).tolist() for k in range(3)
    ]
    assert starts == [
        list(range(8)),
        [0, 1, 3, 5, 6],
        [0, 1, 3, 5, 6],
    ]
    # Without the second phrase's own start its tokens join the first one's.
    merged = marks.at[3].set(int(q))
    assert np.flatnonzero(unit_starts(merged, jnp.int32(1))).tolist() == [0, 1, 5, 6]
    assert np.flatnonzero(unit_starts(merged, jnp.int32(2))).tolist() == [0, 1, 3, 5, 6]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(rows_of_units())
def test_single_tokens_use_the_budget_exactly(row):
    _, candidate, budget, seed = row
    key = jax.random.key(seed)
    chosen = np.asarray(choose_tokens_jitted(key, candidate, jnp.int32(budget)))
    assert not (chosen & ~candidate).any()
    assert chosen.sum() == min(budget, candidate.sum())


@pytest.mark.parametrize("whole", [False, True])
def test_every_candidate_and_every_pair_is_as_likely(whole):
    rows, budget = 60_000, jnp.int32(4)
    candidate = jnp.arange(12) % 4 != 0  # 9 of 12

    def choose(key):
        if whole:
            return choose_units(key, candidate, candidate, budget)
        return choose_tokens(key, candidate, budget)

    chosen = np.asarray(jax.jit(jax.vmap(choose))(keys(rows)))
    chosen = chosen[:, np.asarray(candidate)].astype(int)
    together = (chosen.T @ chosen)[np.triu_indices(9, 1)]
    assert all(within(each, rows, 4 / 9) for each in chosen.sum(axis=0))
    assert all(within(each, rows, 4 * 3 / (9 * 8)) for each in together)


def within(count: int, of: int, share: float) -> bool:
    """Whether so many of so many is a likely draw."""
    law = binom(of, share)
    return min(law.cdf(count), law.sf(count - 1)) > RARE


# What stands in their place.

SMALL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4, vocab_size=50)


def replaced(rows: int, length: int = 32) -> tuple[np.ndarray, ...]:
    """Original tokens and what came of them, every token a target."""
    tokens = np.resize(np.arange(5, 50), (rows, length))
    chosen = jnp.ones(length, bool)

    @jax.jit
    @jax.vmap
    def mask(key, row):
        return mask_row(key, row, chosen, predictions=length, special=SMALL)

    masked = mask(keys(rows), tokens)
    np.testing.assert_array_equal(masked.targets, tokens)
    every = np.resize(np.arange(length), tokens.shape)
    np.testing.assert_array_equal(masked.predictions, every)
    return tokens, np.asarray(masked.tokens)


def check_replaced(tokens: np.ndarray, out: np.ndarray) -> None:
    """80 % [MASK], 10 % unchanged, 10 % from the whole vocabulary, token by token."""
    of, size = tokens.size, SMALL.vocab_size
    masked, kept = out == SMALL.mask, out == tokens
    assert within(masked.sum(), of, 0.8 + 0.1 / size)  # [MASK] may be drawn as well
    assert within(kept.sum(), of, 0.1 + 0.1 / size)
    other = out[~masked & ~kept]
    drawn = np.bincount(other, minlength=size)
    assert (np.delete(drawn, SMALL.mask) > 0).all()
    # Each id is left out where it would be the token itself.
    seen = np.bincount(tokens.reshape(-1), minlength=size)
    expected = np.delete(of - seen, SMALL.mask).astype(float)
    counts = np.delete(drawn, SMALL.mask)
    expected *= counts.sum() / expected.sum()
    assert chisquare(counts, expected).pvalue > RARE
    # Neighbours do not know of each other.
    both = masked[:, 0::2] & masked[:, 1::2]
    assert within(both.sum(), both.size, (0.8 + 0.1 / size) ** 2)


def test_replacements_are_80_10_10_for_each_token():
    check_replaced(*replaced(4096))


def by_reference(reference: Reference, tokens: np.ndarray, joined: int) -> np.ndarray:
    """The same by the reference, which decides for `joined` neighbours at once."""
    rng = random.Random(0)
    out = []
    for at, token in enumerate(tokens.reshape(-1).tolist()):
        if at % joined == 0:
            fate = rng.getrandbits(64)
        own = random.Random(fate)
        vocabulary = lambda own=own: own.randrange(SMALL.vocab_size)  # noqa: E731
        out.append(reference.replace(token, SMALL.mask, vocabulary, own))
    return np.array(out).reshape(tokens.shape)


class NoneFromTheVocabulary(Reference):
    def replace(self, token, mask, vocabulary, rng):
        return mask if rng.random() < 0.9 else token


class NoSpecials(Reference):
    def replace(self, token, mask, vocabulary, rng):
        out = super().replace(token, mask, vocabulary, rng)
        return max(out, FIRST) if out not in (mask, token) else out


def test_the_check_of_replacements_tells_right_from_wrong():
    tokens, _ = replaced(512)
    check_replaced(tokens, by_reference(Reference(), tokens, 1))
    for wrong, joined in (
        (Reference(), 2),  # one decision for a word
        (NoneFromTheVocabulary(), 1),
        (NoSpecials(), 1),
    ):
        with pytest.raises(AssertionError):
            check_replaced(tokens, by_reference(wrong, tokens, joined))
