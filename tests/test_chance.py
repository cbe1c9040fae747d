"""Chance on the host: permutations that are ones, and hashes that look like chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxlm.keys import hashes, permuted

RARE = 1e-8


def one_key(size: int, number: int = 0) -> np.ndarray:
    return np.repeat(hashes(0, "test", np.array([number])), size)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(1, 5000), st.integers(0, 2**60))
def test_every_place_is_reached_once(size, number):
    out = permuted(np.arange(size), size, one_key(size, number))
    np.testing.assert_array_equal(np.sort(out), np.arange(size))


def test_a_place_goes_where_it_goes_alone_or_in_a_batch():
    size = 777
    together = permuted(np.arange(size), size, one_key(size))
    alone = [
        int(permuted(np.array([p]), size, one_key(1))[0]) for p in range(0, size, 37)
    ]
    assert alone == together[::37].tolist()


def test_places_beyond_32_bits():
    size = 10**13
    places = np.arange(size - 1000, size)
    out = permuted(places, size, one_key(1000))
    assert len(np.unique(out)) == 1000
    assert ((out >= 0) & (out < size)).all()


@pytest.mark.parametrize("size", [2, 3, 6, 20])
def test_small_permutations_are_all_as_likely(size):
    keys = hashes(1, "test", np.arange(20_000))
    first, second = (permuted(np.full(len(keys), p), size, keys) for p in (0, 1))
    assert chisquare(np.bincount(first, minlength=size)).pvalue > RARE
    pairs = np.bincount(first * size + second, minlength=size * size)
    pairs = pairs.reshape(size, size)[~np.eye(size, dtype=bool)]
    assert chisquare(pairs).pvalue > RARE


def test_neighbours_part():
    size = 10_000
    out = permuted(np.arange(size), size, one_key(size))
    for step in (1, 2, 99, 100, 101, 5000):
        assert abs(np.corrcoef(out[step:], out[:-step])[0, 1]) < 6 / np.sqrt(
            size - step
        )
    assert (np.diff(out) == 1).sum() < 12


def test_hashes_depend_on_all_that_names_them():
    numbers = np.arange(1000)
    all_ = [
        hashes(0, "a", numbers, numbers),
        hashes(1, "a", numbers, numbers),
        hashes(0, "b", numbers, numbers),
        hashes(0, "a", numbers, numbers + 1),
        hashes(0, "a", numbers + 1, numbers),
    ]
    assert len(np.unique(np.concatenate(all_))) == 5000
    bits = np.unpackbits(np.concatenate(all_).view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(len(bits))


def test_hashes_are_what_they_were():
    # A changed stream would change what every run with the same seed reads.
    assert hashes(7, "pretrain/order", np.array([0, 1])).tolist() == [
        3168624335844391075,
        9723426088340795964,
    ]
    assert permuted(np.arange(8), 8, one_key(8)).tolist() == [5, 1, 2, 7, 4, 0, 3, 6]
