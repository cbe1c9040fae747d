"""Masks of whole batches beside the reference's masks of the same rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reference.bert_data import Reference
from reference.numbered import FIRST, lifelike, numbered
from reference.observed import differences, road, unmasked
from reference.units import Overrun, Stop, units_of

from jaxlm.config import MaskedData
from jaxlm.types import Mark


@pytest.fixture(scope="module", params=[False, True], ids=["tokens", "whole words"])
def batch(request, tmp_path_factory):
    rng = random.Random(1)
    words = [rng.choice([1, 1, 1, 2, 3, 5]) for _ in range(200_000)]
    corpus = numbered(
        lifelike(2, 300, (10, 20, 40)), tmp_path_factory.mktemp("corpus"), words=words
    )
    drawn = road(corpus, data=MaskedData(whole_words=request.param))
    return corpus, request.param, drawn.passes(1)


def test_boundaries_and_padding_are_never_masked(batch):
    for each in batch[2]:
        tokens = unmasked(each)
        assert (each.targets[each.weights > 0] >= FIRST).all()
        never = tokens < FIRST
        np.testing.assert_array_equal(each.tokens[never], tokens[never])


def test_targets_are_ascending_then_empty(batch):
    for each in batch[2]:
        there = each.weights > 0
        np.testing.assert_array_equal(there, -np.sort(-there.astype(int), axis=1) > 0)
        gaps = np.diff(each.predictions, axis=1)
        assert (gaps[there[:, 1:]] > 0).all()
        assert not each.predictions[~there].any()
        assert not each.targets[~there].any()


def test_only_targets_are_changed(batch):
    for each in batch[2]:
        changed = each.tokens != unmasked(each)
        row, column = np.nonzero(each.weights)
        changed[row, each.predictions[row, column]] = False
        assert not changed.any()


def figures(rows: list[tuple[list[list[int]], set[int], int]]) -> dict[str, np.ndarray]:
    """Numbers of each row's mask, from (units, chosen positions, length)."""
    out = {"targets": [], "share": [], "unit": [], "place": []}
    for units, chosen, length in rows:
        out["targets"].append(len(chosen))
        out["share"].append(round(len(chosen) / length, 3))
        out["unit"].extend(len(u) for u in units if u[0] in chosen)
        out["place"].extend(round(p / length, 3) for p in chosen)
    return {name: np.array(each) for name, each in out.items()}


def masks(batch) -> tuple[list, list]:
    """(units, positions, length) of each row, ours; and the rows' tokens."""
    corpus, whole, passes = batch
    ours, rows = [], []
    for each in passes:
        tokens, lengths = unmasked(each), each.mask.sum(axis=1)
        begins = np.ones(tokens.shape, bool)
        if whole:
            words = (corpus.marks & Mark.WORD) > 0
            begins = np.where(tokens >= FIRST, words[tokens - FIRST], False)
            begins[:, 1:] |= tokens[:, :-1] < FIRST  # A and B begin with a unit
        for row, start, length, at, weight in zip(
            tokens, begins, lengths, each.predictions, each.weights, strict=True
        ):
            ours.append(
                (units_of(start, row >= FIRST), set(at[weight > 0].tolist()), length)
            )
            rows.append(row[:length].tolist())
    return ours, rows


def by_rule(reference: Reference, ours: list, rows: list) -> dict[str, np.ndarray]:
    rng = random.Random(3)
    out = []
    for (units, _, length), row in zip(ours, rows, strict=True):
        hidden = reference.hide(row, units, mask=4, vocabulary=rng.random, rng=rng)
        out.append((units, set(hidden.positions), length))
    return figures(out)


class Bernoulli(Reference):
    """Each token for itself: the number of targets is binomial."""

    coins = random.Random(0)

    def budget(self, length):
        drawn = sum(self.coins.random() < self.mask_rate for _ in range(length))
        return min(self.predictions, max(1, drawn))


class BoundariesNotCounted(Reference):
    def budget(self, length):
        return super().budget(length - 3)


def test_masks_of_the_same_rows_have_the_law_of_the_reference(batch):
    ours, rows = masks(batch)
    mine = figures(ours)
    assert not differences(mine, by_rule(Reference(), ours, rows))
    wrong = [Bernoulli(), BoundariesNotCounted()]
    if batch[1]:
        wrong += [Stop(), Overrun()]
    for each in wrong:
        assert differences(mine, by_rule(each, ours, rows)), each


def test_rows_meet_the_published_number(batch):
    _, whole, passes = batch
    for each in passes:
        lengths = each.mask.sum(axis=1)
        counts = each.weights.sum(axis=1)
        expected = np.array([Reference().budget(int(n)) for n in lengths])
        if whole:
            assert (counts <= expected).all()
            assert (counts == expected).mean() > 0.9
        else:
            np.testing.assert_array_equal(counts, expected)


def test_words_of_a_batch_are_whole(batch):
    for units, chosen, _ in masks(batch)[0]:
        for unit in units:
            assert chosen.issuperset(unit) or chosen.isdisjoint(unit)
