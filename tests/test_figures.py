"""What an objective declares holds in training, in evaluation and on the screen."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.config import RunConfig, elmo
from jaxlm.metrics import Binary, Mean, Scores, Tokens, figures, held_out
from jaxlm.objectives.bidirectional import bidirectional_figures
from jaxlm.objectives.objective import Objective, stateless
from jaxlm.train.screen import evaluated
from jaxlm.train.state import TrainState
from jaxlm.train.step import make_train_step

DECLARED = (
    Tokens(name="mlm", title="MLM"),
    Binary(name="rtd", answers=("original", "replaced"), scale=50.0),
)


def sums_of(params, batch, key=None):
    scores = {name: Mean(params * x.sum(), x.size * 1.0) for name, x in batch.items()}
    right = {"rtd_original_accuracy": Mean(1.0, 3.0), "mlm_accuracy": Mean(1.0, 2.0)}
    right |= {"rtd_replaced_accuracy": Mean(1.0, 1.0), "rtd_accuracy": Mean(2.0, 4.0)}
    right |= {"rtd_balanced_accuracy": Scores(np.eye(2, 256) * 2)}
    return {**scores, **right}


@pytest.fixture
def batch():
    return {"mlm_loss": jnp.array([1.0, 2.0]), "rtd_loss": jnp.arange(4.0) / 100}


def test_a_weighted_loss_is_on_one_scale_in_training_and_held_out(batch):
    objective = Objective(
        "blocks",
        transform=lambda rows: rows,
        weights=lambda batch: {name: x.size * 1.0 for name, x in batch.items()},
        loss=stateless(sums_of),
        figures=DECLARED,
    )
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        objective, optimizer, lambda _: 1.0, accumulate=1, dropout=False
    )
    zero, params = jnp.zeros((), jnp.int32), jnp.ones(())
    state = TrainState(zero, params, optimizer.init(params), zero, zero)
    after, metrics = step(state, batch, 0)
    values = held_out(DECLARED, sums_of(params, batch), np.array([3, 1]))
    assert values["loss"] == pytest.approx(1.5 + 50 * 0.015)
    assert float(metrics["loss"].total) == pytest.approx(values["loss"])
    assert float(after.params) == pytest.approx(1 - values["loss"])


def test_figures_of_any_name_stand_beside_their_baselines(batch):
    sums = sums_of(1.0, batch)
    values = held_out(DECLARED, sums, np.array([3, 1]))
    assert set(figures(sums)) < set(values)
    assert values["rtd_balanced_accuracy"] == 0.5
    shown = evaluated(values, DECLARED)
    assert "rtd accuracy 50.0% (majority 75.0%)" in shown
    assert any(each.startswith("mlm loss 1.5 (unigram 0.56") for each in shown)
    assert not any("original" in each or "targets" in each for each in shown)
    report = [line for figure in DECLARED for line in figure.report(values)]
    assert report[0].startswith("MLM loss          1.500   perplexity 4.5   unigram")
    assert report[3] == "RTD accuracy      50.0%   majority 75.0%"
    assert report[4] == "RTD balanced      50.0%   coin 50.0%"
    alone = {**values, "rtd_balanced_accuracy": math.nan}  # one answer is never right
    assert DECLARED[1].report(alone)[2] == "RTD balanced          –   coin 50.0%"


def test_an_elmo_s_directions_stand_beside_their_mean():
    declared = bidirectional_figures(RunConfig(model=elmo("tiny")))
    sums = {f"{way}_accuracy": Mean(1.0, 4.0) for way in ("forward", "backward")}
    sums |= {"forward_loss": Mean(4.0, 4.0), "backward_loss": Mean(12.0, 4.0)}
    values = held_out(declared, sums, np.array([3, 1]))
    assert values["loss"] == values["lm_loss"] == 2.0
    assert values["backward_perplexity"] == pytest.approx(np.exp(3))
    shown = evaluated(values, declared)
    assert [each for each in shown if "unigram" in each] == [
        "lm loss 2 (unigram 0.5623)"
    ]
    what = [each.what for each in declared if each.what]
    assert what == ["words, each from before and from behind,"]
    report = [line for figure in declared for line in figure.report(values)]
    assert report == [
        "forward           1.000   perplexity 2.72   accuracy 25.0%",
        "backward          3.000   perplexity 20.09   accuracy 25.0%",
        "mean              2.000   perplexity 7.39   unigram 0.562, "
        "commonest word 75.0%",
    ]
