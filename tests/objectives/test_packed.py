"""A packed row of an encoder is its texts, each as if it were alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.numbered import lifelike, numbered
from tiny import tiny

from jaxlm.config import MaskedData, bert
from jaxlm.data.layouts import LAYOUTS
from jaxlm.families import family_of
from jaxlm.objectives.masked import masked_lm
from jaxlm.text.corpus import Manifest
from jaxlm.types import MlmBatch, SpecialTokens, UserError

L, P = 32, 12
SPECIAL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4, vocab_size=600)


def config(**data):
    model = bert(
        "tiny",
        vocab_size=600,
        num_heads=2,
        d_model=16,
        d_ff=32,
        max_length=L,
        nsp=False,
    )
    data = MaskedData(packed=True, **data)
    return tiny(
        model=dataclasses.replace(model, dropout=0.0),
        data=data,
        accumulate=1,
        predictions=P,
        length=L,
    )


def objective_of(run):
    manifest = dataclasses.replace(Manifest.empty(run), special=SPECIAL)
    module = family_of(run.model).build(run.model)
    return module, masked_lm(run, module, manifest, run.all_phases[0], "train.0")


def drawn(run, objective, tmp_path) -> MlmBatch:
    corpus = numbered(lifelike(5, 12, (1, 1, 2)), tmp_path)  # below 600 tokens
    assert corpus.num_tokens < 595
    source = LAYOUTS[objective.layout](run, corpus, run.all_phases[0], "train.0")
    rows = source.read(np.arange(source.rows))
    return jax.device_get(jax.jit(objective.transform)(rows))


def alone(batch: MlmBatch) -> MlmBatch:
    """Each text of packed rows as a row of its own, with the same words hidden."""
    out = []
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segments[row].max() + 1):
            at = np.flatnonzero(batch.segments[row] == segment)
            here = (batch.weights[row] > 0) & np.isin(batch.predictions[row], at)
            tokens, mask = np.zeros(L, np.int32), np.arange(L) < len(at)
            tokens[: len(at)] = batch.tokens[row, at]
            places = np.where(here, batch.predictions[row] - at[0], 0)
            weights = batch.weights[row] * here
            one = np.float32(1)
            aims = places, batch.targets[row], weights
            out.append((tokens, np.zeros_like(tokens), mask, *aims, np.int32(0), one))
    return MlmBatch(*map(np.stack, zip(*out, strict=True)))


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_packed_row_equals_each_of_its_texts_alone(tmp_path, whole_words):
    run = config(whole_words=whole_words)
    module, packed = objective_of(run)
    batch = drawn(run, packed, tmp_path)
    plain = dataclasses.replace(run, data=dataclasses.replace(run.data, packed=False))
    _, single = objective_of(plain)
    texts = alone(batch)
    assert len(texts.tokens) > len(batch.tokens)
    assert texts.weights.sum() == batch.weights.sum() > 0
    np.testing.assert_array_equal(texts.tokens[:, 0], SPECIAL.cls)
    last = texts.tokens[np.arange(len(texts.tokens)), texts.mask.sum(1) - 1]
    np.testing.assert_array_equal(last, SPECIAL.sep)
    params = module.init(jax.random.key(0), *module.example())["params"]

    def total(params, objective, batch):
        sums, _ = objective.loss(params, batch)
        return sums["mlm_loss"].total, sums

    value = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    (loss, sums), grads = value(params, packed, batch)
    (other, _), expected = value(params, single, texts)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        grads,
        expected,
    )
    # Full rows: only the last one has more than 2 positions left.
    unused = L - batch.mask.sum(1)
    assert (np.sort(unused)[:-1] <= 2).all()
    assert float(sums["padding"]) == pytest.approx(unused.sum() / batch.mask.size)


def test_the_budget_of_a_packed_row_counts_its_tokens(tmp_path):
    run = config()
    batch = drawn(run, objective_of(run)[1], tmp_path)
    tokens = batch.mask.sum(1)
    np.testing.assert_array_equal(batch.weights.sum(1), np.round(0.15 * tokens))
    row, at = np.nonzero(batch.weights)
    here = batch.predictions[row, at]
    ends = jnp.isin(batch.positions, 0) | (np.roll(batch.positions, -1, 1) == 0)
    assert not np.asarray(ends)[row, here].any()  # no [CLS], no [SEP]


@pytest.mark.parametrize("field", ["nsp", "dialogues"])
def test_packed_pairs_and_dialogues_are_refused(field):
    run = config()
    model = dataclasses.replace(run.model, nsp=field == "nsp")
    text = dataclasses.replace(run.text, dialogues=field == "dialogues")
    with pytest.raises(UserError, match=f"data.packed = True .*{field} = True"):
        dataclasses.replace(run, model=model, text=text)
