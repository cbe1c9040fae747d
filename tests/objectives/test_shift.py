"""Rows of a decoder against the same in plain Python."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.objectives.causal import shift_row
from jaxlm.types import GptBatch, TokenSpan

END = 9
L = 12


@functools.cache
def shifted(packed: bool):
    def rows(span: TokenSpan) -> GptBatch:
        return jax.vmap(
            lambda row: shift_row(row, length=L, end_of_document=END, packed=packed)
        )(span)

    return jax.jit(rows)


def batch_of(*texts: list[int], packed: bool) -> GptBatch:
    """Rows of some stretches of text, of at most L + 1 tokens, on the host."""
    tokens = np.zeros((len(texts), L + 1), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    lengths = np.array([len(text) for text in texts], np.int32)
    span = TokenSpan(tokens, np.zeros_like(tokens, np.uint8), lengths)
    return jax.device_get(shifted(packed)(span))


def documents_of(text: list[int]) -> list[list[int]]:
    """Text cut before each END, but an END at its end predicts nothing."""
    cut: list[list[int]] = [[]]
    for at, token in enumerate(text):
        if token == END and at:
            cut[-1].append(token)
            cut.append([])
        cut[-1].append(token)
    return [each for each in cut if len(each) > 1]


texts = st.lists(
    st.lists(st.sampled_from([0, 1, 2, 3, END]), min_size=1, max_size=L + 1),
    min_size=4,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_every_token_is_told_from_the_ones_before(texts):
    batch = batch_of(*texts, packed=False)
    for row, text in enumerate(texts):
        n = len(text) - 1
        assert batch.tokens[row, :n].tolist() == text[:-1]
        assert batch.targets[row, :n].tolist() == text[1:]
        assert batch.weights[row].tolist() == [1.0] * n + [0.0] * (L - n)
        assert batch.positions[row].tolist() == list(range(L))
        assert batch.segments[row].tolist() == [1] * n + [0] * (L - n)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_a_packed_row_is_its_documents_one_by_one(texts):
    batch = batch_of(*texts, packed=True)
    for row, text in enumerate(texts):
        documents = documents_of(text)
        assert batch.segments[row].max() == len(documents)
        for number, document in enumerate(documents, 1):
            here = batch.segments[row] == number
            alone = batch_of(document, packed=False)
            n = len(document) - 1
            for field in ("tokens", "targets", "weights", "positions"):
                got = getattr(batch, field)[row][here]
                np.testing.assert_array_equal(got, getattr(alone, field)[0, :n])
        there = batch.segments[row] > 0
        np.testing.assert_array_equal(there, np.arange(L) < len(text) - 1)
        np.testing.assert_array_equal(batch.weights[row], there)


def test_the_picture_in_the_docstring():
    batch = batch_of([END, 1, 2, 3, END, 4, 5], packed=True)
    assert batch.tokens[0, :6].tolist() == [END, 1, 2, 3, END, 4]
    assert batch.targets[0, :6].tolist() == [1, 2, 3, END, 4, 5]
    assert batch.segments[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0]
    assert batch.positions[0, :6].tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.weights.sum() == 6


@pytest.mark.parametrize("packed", [True, False])
def test_positions_stay_inside_the_table_where_nothing_is(packed):
    batch = batch_of([END], [], packed=packed)
    assert batch.positions.min() >= 0 and batch.positions.max() < L
    assert not batch.weights.any() and not batch.segments.any()
