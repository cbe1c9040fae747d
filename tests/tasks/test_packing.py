"""Packed rows: each example once, whole, and with the loss of a row of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.config import FinetuneConfig, TaskConfig, bert
from jaxlm.models.layers import position_ids
from jaxlm.tasks.batches import (
    choose_packing,
    packed_batch,
    packed_rows,
    padded_batch,
    shuffled,
)
from jaxlm.tasks.classes import Classes, Numbers
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.spans import Spans
from jaxlm.tasks.task import NONE, TaskRows
from jaxlm.train.state import init_params

CONFIG = bert(
    "tiny", vocab_size=50, num_heads=2, d_model=32, d_ff=64, max_length=32, init_std=0.2
)

MODERN = {"num_token_types": 0, "positions": "rope", "norm": "pre", "nsp": False}
MODERN |= {"gated": True, "biases": False, "window": 8, "global_every": 2}


def some_rows(labels="class", count=12):
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 20, count)
    tokens = [draw.integers(1, 50, n).astype(np.int32) for n in lengths]
    second = draw.integers(1, lengths + 1).astype(np.int32)
    if labels == "tokens":
        each = [draw.integers(NONE, 3, n).astype(np.int32) for n in lengths]
    elif labels == "spans":
        each = np.sort(draw.integers(0, lengths[:, None], (count, 2)), 1)
        each = each.astype(np.int32)
    elif labels == "number":
        each = draw.normal(size=count).astype(np.float32)
    else:
        each = draw.integers(0, 3, count).astype(np.int32)
    return TaskRows(tokens, second, 0, each)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_each_example_is_once_in_a_row_that_holds_it(lengths):
    rows = packed_rows(lengths, 24)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 24 for row in rows)
    # First fit: no two rows would have been one.
    total = [sum(lengths[i] for i in row) for row in rows]
    assert all(
        a + min(lengths[i] for i in row) > 24
        for n, row in enumerate(rows)
        for a in total[:n]
    )


def test_places_begin_anew_in_each_segment():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])
    assert position_ids(segments).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


def test_a_batch_is_the_same_however_its_rows_are_spread():
    rows, index = some_rows("tokens"), np.array([3, 1, NONE, 7, 11, 0])
    whole = packed_batch(rows, index, 24, np.arange(8))
    parts = [packed_batch(rows, index, 24, np.array(rows_)) for rows_ in ([0, 2], [5])]
    for leaf, *each in zip(
        jax.tree.leaves(whole), *map(jax.tree.leaves, parts), strict=True
    ):
        np.testing.assert_array_equal(leaf[[0, 2, 5]], np.concatenate(each))
    assert not whole.mask[-1].any() and whole.weights[-1].sum() == 0
    assert whole.mask.sum() == sum(len(rows.tokens[i]) for i in (3, 1, 7, 11, 0))


@pytest.mark.parametrize(
    ("steps", "least", "most", "more"),
    [(1500, 3, 4, 1.1), (250, 2, 3, 1.2), (90, 1, 1, 1.5)],
)
def test_batches_have_few_sizes_that_hold_them_the_largest_first(
    steps, least, most, more
):
    lengths = some_rows(count=50).lengths
    alike = np.full(50, lengths.max())
    batches = shuffled(alike, 8, steps, seed=3, stream="train.0").index
    width, counts = choose_packing(lengths, batches, widest=64, cost=float)
    needed = [
        len(packed_rows(lengths[index[index != NONE]].tolist(), width))
        for index in batches
    ]
    assert all(a <= b for a, b in zip(needed, counts, strict=True))
    assert counts[0] == max(counts) == max(needed)
    assert least <= len(set(counts)) <= most
    assert np.mean(counts) < more * np.mean(needed)


def test_a_row_is_as_wide_as_costs_the_least():
    def width(length, cost, widest=64):
        some = {"widest": widest, "cost": cost}
        return choose_packing(np.full(3, length), np.arange(3)[None], **some)[0]

    # Three examples of 20 tokens need three rows of 24 or 32, two of 40 or 48.
    assert width(20, float) == 24
    assert width(20, lambda width: width**0.5) == 40
    assert width(20, lambda width: width**0.5, widest=32) == 24
    assert width(20, float, widest=20) == 20


HEADS = {
    "class": (3, Classes),
    "tokens": (3, Classes),
    "number": (1, Numbers),
    "spans": (2, Spans),
}


@pytest.mark.parametrize(
    ("kind", "pooling", "mix", "encoder"),
    [
        ("class", "pooler", "none", {}),
        ("class", "mean", "input", {}),
        ("spans", "none", "none", {}),
        ("tokens", "none", "none", MODERN),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in [
                ("class", "cls", "none", {}),
                ("class", "mean", "none", {}),
                ("number", "mean", "none", {}),
                ("tokens", "none", "none", {}),
                ("class", "cls", "none", MODERN),
                ("number", "mean", "none", MODERN),
            ]
        ),
    ],
)
def test_losses_and_gradients_are_those_of_padded_rows(kind, pooling, mix, encoder):
    rows, index = some_rows(kind), np.array([4, 9, 2, 0, 11, 6])
    outputs, task = HEADS[kind]
    sums = task(FinetuneConfig(), tokenizer_of(CONFIGS["bert"])).sums
    fields = TaskConfig(pooling="mean", mix=mix)
    config = dataclasses.replace(CONFIG, **encoder)
    module = TaskModel(config, fields, outputs, pooling)
    params = init_params(module, 0)

    def loss(params, batch):
        logits = module.apply(
            {"params": params},
            batch.tokens,
            batch.token_types,
            batch.mask,
            segments=batch.segments,
        )
        mean = sums(logits, batch)["task_loss"]
        return mean.total / mean.weight

    count = len(packed_rows([len(rows.tokens[i]) for i in index], 24)) + 1
    batches = (
        padded_batch(rows, index, 24),
        packed_batch(rows, index, 24, np.arange(count)),
    )
    assert batches[1].tokens.shape[0] < len(index)
    found = [
        jax.jit(jax.value_and_grad(loss))(params, jax.tree.map(jnp.asarray, batch))
        for batch in batches
    ]
    (padded, gradient), (packed, other) = found
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
        other,
        gradient,
    )
