"""Sums add up to what one larger batch would give; baselines are what they say."""

import math

import jax.numpy as jnp
import numpy as np

from jaxlm.metrics import (
    Mean,
    add,
    balanced_accuracy,
    figures,
    majority_accuracy,
    perplexity,
    unigram_loss,
)


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


def test_balanced_accuracy_gives_a_constant_answer_no_credit():
    # Always "0" where 90 of 100 are 0: accuracy 0.9, balanced 0.5.
    assert balanced_accuracy(np.array([90.0, 0.0]), np.array([90.0, 10.0])) == 0.5
    assert balanced_accuracy(np.array([45.0, 10.0]), np.array([90.0, 10.0])) == 0.75
    assert balanced_accuracy(np.array([9.0, 0.0]), np.array([10.0, 0.0])) == 0.9
    assert math.isnan(balanced_accuracy(np.zeros(2), np.zeros(2)))


def test_baselines_from_counts():
    targets = np.array([3, 1, 1, 0, 1, 3, 1, 1])
    counts = np.bincount(targets, minlength=6).astype(float)
    assert majority_accuracy(counts) == np.mean(targets == 1)
    share = counts / counts.sum()
    np.testing.assert_allclose(unigram_loss(counts), -np.mean(np.log(share[targets])))
    assert math.isnan(unigram_loss(np.zeros(3)))
    assert math.isnan(majority_accuracy(np.zeros(3)))
