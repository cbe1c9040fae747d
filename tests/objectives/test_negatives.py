"""Samples of other words, against TensorFlow's rule in plain Python."""

from __future__ import annotations

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.objectives.bidirectional import draw_negatives, enough_draws, log_expected
from jaxlm.types import UserError


def by_rule(chance: random.Random, count: int, size: int):
    """`log_uniform_candidate_sampler(unique=True)`: draw until there are enough."""
    found: list[int] = []
    draws = 0
    while len(found) < count:
        word = int(math.exp(chance.random() * math.log(size + 1))) - 1
        draws += 1
        if word % size not in found:
            found.append(word % size)
    return found, draws


@pytest.mark.parametrize(("count", "size"), [(4, 30), (20, 100)])
def test_samples_are_distributed_as_by_the_rule(count, size):
    runs = 4000
    keys = jax.random.split(jax.random.key(1), runs)
    drawn = jax.jit(jax.vmap(lambda key: draw_negatives(key, count, size)))(keys)
    assert drawn.drawn.all()
    words = np.asarray(drawn.words)
    assert all(len(set(row)) == count for row in words.tolist())
    chance = random.Random(2)
    others = [by_rule(chance, count, size) for _ in range(runs)]
    ours = np.bincount(words.ravel(), minlength=size) / runs
    rule = np.bincount([w for found, _ in others for w in found], minlength=size) / runs
    # Five standard deviations of a difference of two shares.
    bound = 5 * np.sqrt(2 * np.maximum(rule * (1 - rule), 0.01) / runs)
    assert (np.abs(ours - rule) < bound).all()
    took = [draws for _, draws in others]
    assert float(drawn.draws.mean()) == pytest.approx(
        np.mean(took), abs=5 * np.std(took) * math.sqrt(2 / runs)
    )
    # The first words of a sample come as those of plain draws do: in order of drawing.
    first = np.mean(words[:, 0] == 0)
    assert first == pytest.approx(math.log(2) / math.log(size + 1), abs=0.04)


def test_expected_counts_are_tensorflows():
    """-expm1(tries · log1p(-p)), range_sampler.cc, in double precision."""
    size, tries = 793_471, 21_000.0
    words = np.array([0, 1, 10, 5000, size - 1])
    p = np.log((words + 2) / (words + 1)) / math.log(size + 1)
    want = np.log(-np.expm1(tries * np.log1p(-p)))
    got = log_expected(jnp.asarray(words), jnp.asarray(tries), size)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_a_sample_of_the_published_size_is_whole():
    drawn = jax.jit(lambda key: draw_negatives(key, 8192, 793_471))(jax.random.key(0))
    assert drawn.drawn.all() and len(set(np.asarray(drawn.words).tolist())) == 8192
    assert float(drawn.draws) < enough_draws(8192, 793_471) < 40_000


def test_more_than_half_of_a_vocabulary_is_refused():
    assert enough_draws(10, 20) >= 10
    with pytest.raises(UserError, match="at most half"):
        enough_draws(11, 20)
