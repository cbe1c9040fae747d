"""Rows that predict each next token in the same batch as masked ones."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.numbered import lifelike, numbered
from tiny import tiny

from jaxlm.config import MaskedData, MeshConfig, Phase, bert
from jaxlm.data.layouts import LAYOUTS
from jaxlm.evaluation import STREAM
from jaxlm.families import family_of
from jaxlm.mesh import joined, parted
from jaxlm.models.bert import Bert
from jaxlm.models.kernels import fused
from jaxlm.objectives.masked import masked_lm
from jaxlm.sharding import abstract_mesh, check_batch
from jaxlm.text.corpus import Manifest
from jaxlm.types import SpecialTokens, UserError

L, B, P = 32, 16, 5
CAUSAL = Phase(until=12, length=L, batch=B, predictions=P, causal_share=1.0)
SPECIAL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4, vocab_size=600)


def config(share=0.25, packed=False, **changes):
    model = dataclasses.replace(tiny().model, nsp=False, dropout=0.0)
    data = MaskedData(causal_share=share, packed=packed)
    changes = {"model": model, "data": data, "accumulate": 1, **changes}
    return tiny(**changes)


def opened(run, tmp_path, stream="train.0"):
    """(module, objective, batch) of the first batch of the first phase."""
    corpus = numbered(lifelike(5, 12, (1, 1, 2)), tmp_path)
    phase = run.all_phases[0]
    manifest = dataclasses.replace(Manifest.empty(run), special=SPECIAL)
    module = family_of(run.model).build(run.model)
    objective = masked_lm(run, module, manifest, phase, stream)
    source = LAYOUTS[objective.layout](run, corpus, phase, stream)
    batch = jax.jit(objective.transform)(source.read(np.arange(B)))
    return module, objective, jax.device_get(batch)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_both_kinds_equal_each_kind_alone(tmp_path, packed):
    run = config(packed=packed)
    module, objective, batch = opened(run, tmp_path)
    stage = dataclasses.replace(run, phases=(CAUSAL,))
    _, alone, _ = opened(stage, tmp_path)
    causal, masked = batch.causal, batch._replace(causal=None)
    assert len(causal.tokens) == 4 and len(masked.tokens) == 12
    scale = {f"{each.name}_loss": each.scale for each in objective.figures}
    assert scale == {"mlm_loss": 0.75, "lm_loss": 0.25}
    assert objective.weights(batch).keys() == scale.keys()
    params = module.init(jax.random.key(0), *module.example())["params"]

    def total(params, *batches):
        found = {}
        for by, each in zip((alone, objective)[-len(batches) :], batches, strict=True):
            found |= by.loss(params, each)[0]
        return found["mlm_loss"].total + 0.3 * found["lm_loss"].total, found

    value = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, one), grads = value(params, batch)
    (_, two), expected = value(params, causal, masked)
    assert one.keys() == two.keys() >= {"lm_accuracy", "mlm_accuracy", "padding"}
    there = np.sum(batch.mask) + np.sum(batch.causal.mask)
    assert float(one.pop("padding")) == pytest.approx(1 - there / (B * L))
    del two["padding"]
    for name, mean in two.items():
        np.testing.assert_allclose(one[name], mean, rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        grads,
        expected,
    )


@pytest.mark.parametrize("packed", [False, True])
def test_targets_are_the_next_tokens_of_the_text(tmp_path, packed):
    run = config(packed=packed)
    batch = opened(run, tmp_path)[2].causal
    row, at = np.nonzero(batch.weights)
    targets = batch.targets[row, at]
    np.testing.assert_array_equal(targets, batch.tokens[row, at + 1])
    assert not np.isin(targets, [SPECIAL.pad, SPECIAL.cls, SPECIAL.sep]).any()
    segments = batch.segments if packed else batch.mask
    np.testing.assert_array_equal(segments[row, at], segments[row, at + 1])
    words = ~np.isin(batch.tokens, [SPECIAL.pad, SPECIAL.cls, SPECIAL.sep])
    assert len(row) == words.sum()  # each token of a text is a target
    _, objective, alone = opened(dataclasses.replace(run, phases=(CAUSAL,)), tmp_path)
    np.testing.assert_array_equal(alone.tokens[:4], batch.tokens)
    assert objective.weights(alone).keys() == {"lm_loss"}
    assert [each.scale for each in objective.figures] == [1.0]


MODERN = {"positions": "rope", "norm": "pre", "gated": True, "window": 8}


@pytest.mark.parametrize("changes", [{}, MODERN], ids=["bert", "modern"])
def test_a_token_of_a_causal_row_sees_no_later_one(changes):
    module = Bert(dataclasses.replace(config().model, **changes))
    tokens = jax.random.randint(jax.random.key(1), (6, L), 5, 600)
    params = module.init(jax.random.key(0), *module.example())["params"]

    @jax.jit
    def last(tokens):
        rows = joined(tokens[:2], tokens[2:])
        types, options = jnp.zeros_like(rows), {"causal_rows": 2, "logits": False}
        out = module.apply({"params": params}, rows, types, **options)
        return parted(out.last, 2)

    before, after = last(tokens), last(tokens.at[:, 20].set(5))
    same = [
        np.asarray(jnp.abs(a - b).max((0, 2)) < 1e-6)
        for a, b in zip(before, after, strict=True)
    ]
    np.testing.assert_array_equal(same[0], np.arange(L) < 20)
    assert not same[1][12:28].any()


def test_an_evaluation_has_all_rows_in_both_ways(tmp_path):
    shape = {"length": L, "batch": B, "predictions": P}
    phases = (Phase(until=6, causal_share=1.0, **shape), Phase(until=12, **shape))
    run = config(share=0.0, phases=phases)
    _, objective, batch = opened(run, tmp_path, STREAM)
    assert [(each.name, each.scale) for each in objective.figures] == [
        ("mlm", 1.0),
        ("lm", 0.0),
    ]
    plain = dataclasses.replace(run, phases=())
    expected = opened(plain, tmp_path, STREAM)[2]
    got = batch._replace(causal=None)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert len(batch.causal.tokens) == B


def test_fused_roads_take_rows_of_both_kinds(monkeypatch):
    monkeypatch.setattr(fused, "platform", lambda: "tpu")
    model = bert("tiny", vocab_size=9, d_model=64, num_heads=1, d_ff=8, dropout=0.0)
    module, tokens = Bert(model), jnp.zeros((4, 256), int)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), *module.example()))

    def total(params, rows):
        return module.apply(params, tokens, tokens, causal_rows=rows).last.sum()

    def text(rows):
        traced = jax.jit(jax.grad(total), static_argnums=1).trace(params, rows)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert [text(rows).count("@tpu_custom_call") for rows in (0, 2, 4)] == [2, 4, 2]
    assert "256x256" not in text(2)


def test_shares_that_cannot_be_are_refused_with_the_remedy():
    with pytest.raises(
        UserError, match=r"causal_share = 0.25 .*nsp.*--model.nsp false"
    ):
        config(model=tiny().model)
    run = config(share=0.06)  # 1 of 16 rows
    check_batch(run, abstract_mesh(MeshConfig(data=1), 1))
    with pytest.raises(
        UserError, match=r"0.06 of 16 rows are 1, .*multiple of 8 .*pass 0.5"
    ):
        check_batch(run, abstract_mesh(MeshConfig(data=8), 8))
    check_batch(config(share=0.5), abstract_mesh(MeshConfig(data=8), 8))
    with pytest.raises(UserError, match=r"0.01 of 16 rows are 0"):
        check_batch(config(share=0.01), abstract_mesh(MeshConfig(data=1), 1))
