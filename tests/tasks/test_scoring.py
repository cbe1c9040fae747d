"""Figures beside scikit-learn's and scipy's."""

import math

import numpy as np
import pytest

from jaxlm.tasks.classes import class_figures, number_figures

pytestmark = pytest.mark.scores
draw = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_class_figures_are_those_of_scikit_learn(classes):
    from sklearn import metrics

    truth = draw.integers(0, classes, 300).astype(np.int32)
    scores = draw.normal(size=(300, classes)).astype(np.float32)
    scores[np.arange(300), truth] += 1
    answer = scores.argmax(1)
    got = class_figures(truth, scores)
    shares = np.exp(scores.astype(float))
    shares /= shares.sum(1, keepdims=True)
    want = {
        "task_loss": metrics.log_loss(truth, shares),
        "accuracy": metrics.accuracy_score(truth, answer),
        "macro_f1": metrics.f1_score(truth, answer, average="macro"),
        "mcc": metrics.matthews_corrcoef(truth, answer),
        "majority_accuracy": np.bincount(truth).max() / 300,
    }
    if classes == 2:
        want["f1"] = metrics.f1_score(truth, answer)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert math.isclose(got[name], value, rel_tol=1e-6), name


def test_one_answer_to_all_has_no_correlation_and_no_f1():
    truth = np.array([1, 1, 0, 1], np.int32)
    scores = np.tile(np.array([1.0, 0.0], np.float32), (4, 1))
    got = class_figures(truth, scores)
    assert got["mcc"] == 0 and got["f1"] == 0 and got["accuracy"] == 0.25


def test_number_figures_are_those_of_scipy_ties_and_all():
    from scipy import stats

    truth = draw.integers(0, 6, 200).astype(np.float32)
    answer = (truth + draw.normal(size=200)).round(1).astype(np.float32)
    got = number_figures(truth, answer)
    wide = truth.astype(float), answer.astype(float)
    assert math.isclose(got["pearson"], stats.pearsonr(*wide)[0], rel_tol=1e-9)
    spearman = stats.spearmanr(truth, answer)[0]
    assert math.isclose(got["spearman"], spearman, rel_tol=1e-9)
    assert math.isnan(number_figures(truth, np.zeros(200))["pearson"])
