"""Rows of several languages: shares, order, position, second segments."""

from __future__ import annotations

import hashlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.numbered import FIRST, lifelike, numbered
from reference.sources import batches, open_source
from scipy.stats import chisquare

from jaxlm.data.rows import BLOCK, languages_of, rows_a_block
from jaxlm.text.languages import smoothed
from jaxlm.types import UserError

RARE = 1e-8
COUNTS = (400, 15, 60)  # documents of three languages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    documents = lifelike(0, sum(COUNTS), (3, 9, 20))
    return numbered(
        documents,
        tmp_path_factory.mktemp("corpus"),
        ended=True,
        languages=np.repeat([0, 1, 2], COUNTS).tolist(),
    )


def source_of(corpus, **options):
    usual = {"split": 0, "layout": "pairs", "seed": 3, "stream": "s", "smoothing": 0.7}
    return open_source(corpus, length=64, **{**usual, **options})


def language_at(corpus, tokens):
    """Number of the language of tokens, by their own ids."""
    document = np.searchsorted(corpus.documents[:, 0], tokens - FIRST, side="right") - 1
    return corpus.documents[document, 1]


def formula(corpus, exponent):
    """p_i ∝ (n_i / n)^S, by hand."""
    sizes = [0.0, 0.0, 0.0]
    for (_, language, _), tokens in zip(
        corpus.documents,
        np.diff(corpus.documents[:, 0], append=corpus.num_tokens),
        strict=True,
    ):
        sizes[language] += float(tokens)
    raised = [(size / sum(sizes)) ** exponent for size in sizes]
    return np.array([each / sum(raised) for each in raised])


@pytest.mark.parametrize("layout", ["pairs", "blocks", "stream"])
@pytest.mark.parametrize("exponent", [1.0, 0.7, 0.3])
def test_shares_are_those_of_the_formula(corpus, layout, exponent):
    source = source_of(corpus, layout=layout, smoothing=exponent)
    rows = source.read(np.arange(10_000))
    told = rows.languages
    # By the tokens themselves; a row may begin with, or lie behind, an end mark (1).
    width = 5 if layout == "stream" else 1
    text = (rows.first.tokens[:, :width] >= FIRST).all(axis=1)
    seen = language_at(corpus, rows.first.tokens[:, width - 1])
    # A row of a stream may span two languages: it counts as the first of them.
    assert (seen == told)[text].mean() >= (0.99 if layout == "stream" else 1)
    want = formula(corpus, exponent)
    got = np.bincount(told, minlength=3) / 10_000
    assert (np.abs(got - want) < 5 * np.sqrt(want * (1 - want) / 10_000)).all()
    # Near the formula, not merely near something: the plain shares are far away.
    if exponent < 1:
        plain = formula(corpus, 1.0)
        off = np.abs(got - plain) / np.sqrt(plain * (1 - plain) / 10_000)
        assert off.max() > 20


def test_a_resumed_run_reads_the_same_rows(corpus):
    source, local = source_of(corpus), np.arange(32)
    whole = list(batches(source, 32, local, start=0, stop=40, threads=2))
    again = batches(source_of(corpus), 32, local, start=23, stop=40, threads=1)
    for a, b in zip(whole[23:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    # And a host its part of them, also where a block of the mixture ends.
    rows = np.arange(BLOCK - 16, BLOCK + 16)
    part = source.read(rows[10:20])
    both = jax.tree.map(lambda x: x[10:20], source.read(rows))
    jax.tree.map(np.testing.assert_array_equal, part, both)


def test_each_language_has_passes_of_its_own(corpus):
    source = source_of(corpus, layout="blocks", draws=1)
    rows = source.read(np.arange(3 * source.rows))
    start = source.windows[rows.row_key[:, 0]]
    for language in range(3):
        of = source.windows[slice(*source.bounds[language : language + 2])]
        drawn = start[rows.languages == language]
        passes = len(drawn) // len(of)
        assert passes > 1
        orders = drawn[: passes * len(of)].reshape(passes, len(of))
        for order in orders:
            np.testing.assert_array_equal(np.sort(order), of)
        assert (orders[0] != orders[1]).mean() > 0.8


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=120),
    st.floats(0.05, 1.0),
)
def test_rows_of_a_block_are_rounded_shares(sizes, exponent):
    sizes[0] += 1
    shares = smoothed(np.array(sizes), exponent)
    counts = rows_a_block(shares)
    assert counts.sum() == BLOCK
    assert ((counts > 0) == (shares > 0)).all()
    fair = shares * BLOCK >= 1
    if fair[shares > 0].all():
        assert (np.abs(counts - shares * BLOCK) < 1).all()


def test_a_row_knows_how_many_of_its_language_came_before():
    counts = rows_a_block(np.array([0.61, 0.0, 0.38, 0.01]))
    rows = np.arange(2 * BLOCK + 1000)
    language, nth = languages_of(rows, counts, 3, "s")
    for each in range(4):
        here = language == each
        np.testing.assert_array_equal(nth[here], np.arange(here.sum()))
    chance = np.random.default_rng(0).permutation(rows)[:500]
    alone = languages_of(chance, counts, 3, "s")
    np.testing.assert_array_equal(alone[0], language[chance])
    np.testing.assert_array_equal(alone[1], nth[chance])
    # Another name, another mixture; neighbours tell nothing of each other.
    assert (languages_of(rows, counts, 4, "s")[0] != language).mean() > 0.3
    assert (languages_of(rows, counts, 3, "t")[0] != language).mean() > 0.3
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (language[1:], language[:-1]), 1)
    pairs = pairs[[0, 2, 3]][:, [0, 2, 3]]
    want = np.outer(pairs.sum(1), pairs.sum(0)) / pairs.sum()
    assert chisquare(pairs.ravel(), want.ravel(), ddof=4).pvalue > RARE


def test_static_draws_repeat_with_the_passes_of_a_language(corpus):
    source = source_of(corpus, draws=2)
    rows = source.read(np.arange(4 * source.rows))
    small = rows.row_key[rows.languages == 1]
    n = int(np.diff(source.bounds)[1])
    np.testing.assert_array_equal(small[:n, 1], 0)
    np.testing.assert_array_equal(small[n : 2 * n, 1], 1)
    np.testing.assert_array_equal(small[2 * n : 3 * n, 1], 0)


# Second segments.


@pytest.mark.parametrize("second", ["any", "same"])
def test_the_second_segment_is_of_the_language_that_was_asked(corpus, second):
    source = source_of(corpus, second=second)
    rows = source.read(np.arange(20_000))
    firsts = rows.first.tokens[:, 0] - FIRST
    seconds = rows.second.tokens[:, 0] - FIRST
    bounds = corpus.documents[:, 0]
    own = np.searchsorted(bounds, firsts, side="right") - 1
    other = np.searchsorted(bounds, seconds, side="right") - 1
    assert (own != other).all()
    language = corpus.documents[other, 1]
    if second == "same":
        np.testing.assert_array_equal(language, rows.languages)
        of = np.bincount(other[rows.languages == 1], minlength=len(bounds))
        of = of[corpus.documents[:, 1] == 1]
        assert of.min() > 0
    else:  # by the number of documents, whatever the first one is
        got = np.bincount(language, minlength=3)
        want = np.array(COUNTS) / sum(COUNTS) * len(rows.languages)
        assert chisquare(got, want).pvalue > RARE


def test_a_language_without_rows_or_without_another_document_is_named(tmp_path):
    documents = [[9] * 20] * 5
    gone = numbered(documents, tmp_path, languages=[0, 0, 1, 2, 2], held_out=(2,))
    with pytest.raises(UserError, match="no row of the language bb in split 0"):
        source_of(gone)
    assert source_of(gone, shuffle=False).rows > 0
    alone = numbered(documents, tmp_path / "b", languages=[0, 0, 1, 2, 2])
    assert source_of(alone).rows > 0
    with pytest.raises(UserError, match=r"1 document, and data\.second = same .* bb"):
        source_of(alone, second="same")


# One language.


@pytest.mark.parametrize(
    "layout, digest",
    [
        ("pairs", "689551a19c5860ae"),
        ("blocks", "05ad206f241a891d"),
        ("stream", "82eb2304f52c8896"),
    ],
)
def test_one_language_reads_what_it_read_before_there_were_several(
    tmp_path, layout, digest
):
    """Digests of the commit before this file, whose rows did not have the seed."""
    corpus = numbered(lifelike(0, 90, (3, 9)), tmp_path, ended=True)
    total = hashlib.sha256()
    for smoothing in (1.0, 0.3):
        source = source_of(corpus, layout=layout, smoothing=smoothing, second="same")
        rows = source.read(np.arange(500))
        assert rows.languages is None
        again = hashlib.sha256()
        for leaf in jax.tree.leaves(rows._replace(seed=None)):
            again.update(leaf.tobytes())
        assert total.digest() in (hashlib.sha256().digest(), again.digest())
        total = again
    assert total.hexdigest()[:16] == digest
