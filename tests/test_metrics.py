"""Sums add up to what one larger batch would give; baselines are what they say."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.metrics import (
    Binary,
    Mean,
    add,
    figures,
    majority_accuracy,
    perplexity,
    unigram_loss,
)
from jaxlm.objectives.masked import binary_sums


def test_sums_of_parts_are_those_of_the_whole_and_means_of_means_are_not():
    draw = np.random.default_rng(0)
    values, weights = draw.uniform(size=12), draw.integers(0, 3, 12)

    def sums(rows):
        total, weight = (values * weights)[rows].sum(), weights[rows].sum()
        return {"loss": Mean(jnp.float32(total), jnp.float32(weight))}

    parts = [sums(slice(0, 2)), sums(slice(2, 9)), sums(slice(9, 12))]
    together = add(add(parts[0], parts[1]), parts[2])
    whole = np.average(values, weights=weights)
    np.testing.assert_allclose(float(together["loss"]), whole, rtol=1e-6)
    naive = np.mean([float(part["loss"]) for part in parts])
    assert abs(naive - whole) > 1e-3


def test_figures_divide_each_sum():
    sums = {
        "mlm_loss": Mean(6.0, 2.0),
        "nsp_loss": Mean(2.0, 4.0),
        "mlm_accuracy": Mean(0.0, 0.0),
    }
    out = figures(sums)
    assert out["mlm_loss"] == 3.0 and out["nsp_loss"] == 0.5
    assert math.isnan(out["mlm_accuracy"])  # nothing weighed is no zero
    assert figures({"accuracy": Mean(1.0, 2.0)}) == {"accuracy": 0.5}


def test_perplexity_overflows_to_infinity():
    np.testing.assert_allclose(perplexity(math.log(20.0)), 20.0)
    assert perplexity(1e4) == math.inf


def question(labels, log_odds, weights=None):
    """The sums of a choice of two."""
    logits = jnp.stack([jnp.zeros(len(labels)), jnp.asarray(log_odds)], axis=-1)
    weights = jnp.ones(len(labels)) if weights is None else weights
    figure = Binary(name="nsp", answers=("next", "random"))
    sums = binary_sums(figure, logits, jnp.asarray(labels, int), weights)
    return sums, figures(sums)["nsp_balanced_accuracy"]


def test_knowing_only_which_answer_is_commoner_gets_no_credit():
    labels = np.arange(100) < 90
    for log_odds in (-20.0, 0.0, math.log(9), 20.0):
        assert question(labels, np.full(100, log_odds))[1] == 0.5
    assert question(labels, labels * 0.25 + math.log(9) - 0.125)[1] == 1
    assert question(labels, 4.0 - 8 * labels)[1] == 0
    assert math.isnan(question(np.ones(10), np.ones(10))[1])
    assert math.isnan(question(labels, labels, jnp.zeros(100))[1])


@pytest.mark.scores
@pytest.mark.parametrize("ones", [1000, 2000])
def test_the_answers_at_the_odds_of_the_rows_are_as_right_as_scikit_learn_says(ones):
    from sklearn.metrics import balanced_accuracy_score

    labels = np.arange(3000) < ones
    odds = math.log(ones / (3000 - ones))
    log_odds = np.random.default_rng(0).normal(labels + odds - 0.5, 1)
    parts = [
        question(x, y)[0] for x, y in ((labels[k::3], log_odds[k::3]) for k in range(3))
    ]
    ours = figures(functools.reduce(add, parts))["nsp_balanced_accuracy"]
    theirs = balanced_accuracy_score(labels, log_odds > odds)
    likelier = balanced_accuracy_score(labels, log_odds > 0)
    assert ours == pytest.approx(theirs, abs=2e-3)
    assert abs(likelier - theirs) > 0.01


def test_baselines_from_counts():
    targets = np.array([3, 1, 1, 0, 1, 3, 1, 1])
    counts = np.bincount(targets, minlength=6).astype(float)
    assert majority_accuracy(counts) == np.mean(targets == 1)
    share = counts / counts.sum()
    np.testing.assert_allclose(unigram_loss(counts), -np.mean(np.log(share[targets])))
    assert math.isnan(unigram_loss(np.zeros(3)))
    assert math.isnan(majority_accuracy(np.zeros(3)))
