"""A mask rate that changes within a run, by steps and by phases."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from reference.numbered import lifelike, numbered
from tiny import tiny

from jaxlm.config import MaskedData, Phase
from jaxlm.data.layouts import LAYOUTS
from jaxlm.data.rows import mask_rates
from jaxlm.evaluation import STREAM
from jaxlm.families import family_of
from jaxlm.objectives.mask import target_counts
from jaxlm.objectives.masked import masked_lm
from jaxlm.text.corpus import Manifest
from jaxlm.types import SpecialTokens, UserError

L, B, P = 32, 16, 10


def config(**changes):
    run = tiny(predictions=P, steps=11, optim=tiny().optim, **changes)
    return dataclasses.replace(run, model=dataclasses.replace(run.model, nsp=False))


def drawn(run, corpus, number=0, *, training=True):
    """A function: the first batch, or any, of a phase → (rows, batch)."""
    special = SpecialTokens(0, 1, 2, 3, 4, 600)
    manifest = dataclasses.replace(Manifest.empty(run), special=special)
    stream = f"train.{number}" if training else STREAM
    phase, module = run.all_phases[number], family_of(run.model).build(run.model)
    objective = masked_lm(run, module, manifest, phase, stream)
    source = LAYOUTS[objective.layout](run, corpus, phase, stream, shuffle=training)
    transform = jax.jit(objective.transform)

    def batch(step):
        rows = source.read(step * B + np.arange(B))
        return rows, jax.device_get(transform(rows))

    return batch


@pytest.fixture
def corpus(tmp_path):
    return numbered(lifelike(5, 40, (1, 1, 2)), tmp_path)


@pytest.mark.parametrize("choice", ["budget", "each"])
def test_the_rate_goes_in_a_line_through_the_run(corpus, choice):
    data = MaskedData(mask_rate=0.3, mask_rate_end=0.15, choice=choice)
    batch = drawn(config(data=data), corpus)
    shares = []
    for step in range(11):
        rows, made = batch(step)
        rate = 0.3 - 0.15 * step / 10
        assert rows.mask_rates.dtype == np.float32
        np.testing.assert_allclose(rows.mask_rates, rate, rtol=1e-6)
        tokens, counts = made.mask.sum(1), made.weights.sum(1)
        shares.append(counts.sum() / tokens.sum())
        if choice == "budget":
            np.testing.assert_array_equal(
                counts, np.maximum(1, np.round(rows.mask_rates * np.float32(tokens)))
            )
        assert made.predictions.shape == (B, P)
    assert shares[0] > 0.24 and shares[-1] < 0.2
    # A step is a pure function of its number: nothing was counted on the way.
    again = drawn(config(data=data), corpus)(7)
    jax.tree.map(np.testing.assert_array_equal, again, batch(7))


def test_phases_have_rates_of_their_own(corpus):
    shape = {"length": L, "batch": B, "predictions": P}
    phases = (
        Phase(until=4, mask_rate=0.3, **shape),
        Phase(until=8, **shape),
        Phase(until=11, mask_rate=0.05, **shape),
    )
    run = config(phases=phases, data=MaskedData(mask_rate=0.15))
    for number, rate in enumerate((0.3, 0.15, 0.05)):
        rows, made = drawn(run, corpus, number)(2)
        assert (rows.mask_rates is None) == (rate == 0.15)
        expected = target_counts(L, rate, P)[made.mask.sum(1)]
        np.testing.assert_array_equal(made.weights.sum(1), expected)
    # With a line through the run, a phase goes on where the one before ended.
    run = config(phases=phases, data=MaskedData(mask_rate=0.3, mask_rate_end=0.2))
    np.testing.assert_allclose(mask_rates(run, phases[1], np.array([0])), [0.26])
    np.testing.assert_allclose(mask_rates(run, phases[1], np.array([99])), [0.2])


def test_evaluations_have_the_last_rate(corpus):
    data = MaskedData(mask_rate=0.3, mask_rate_end=0.15)
    rows, made = drawn(config(data=data), corpus, training=False)(0)
    assert rows.mask_rates is None
    expected = target_counts(L, 0.15, P)[made.mask.sum(1)]
    np.testing.assert_array_equal(made.weights.sum(1), expected)


def test_too_few_predictions_for_the_greatest_rate_are_refused():
    data = MaskedData(mask_rate=0.1, mask_rate_end=0.4)
    with pytest.raises(UserError, match=r"predictions = 10 .* 0.4 of 32 .*13"):
        config(data=data)
    phase = Phase(until=11, length=L, batch=B, predictions=P, mask_rate=0.5)
    with pytest.raises(UserError, match=r"phases.0.predictions = 10 .* 16 are needed"):
        config(phases=(phase,))
