"""Rows by position: order, chance by name, threads, evaluation."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from reference.numbered import FIRST, Numbered, lifelike, numbered
from reference.observed import pairs_of, road, unmasked
from reference.sources import batches, open_source
from scipy.stats import chisquare

from jaxlm.config import MaskedData
from jaxlm.types import UserError

RARE = 1e-8


@pytest.fixture
def corpus(tmp_path) -> Numbered:
    return numbered(lifelike(0, 60, (1, 3, 9, 40)), tmp_path)


def source_of(corpus, **options):
    options = {"split": 0, "layout": "pairs", "seed": 3, "stream": "test", **options}
    return open_source(corpus, length=64, **options)


def windows_of(source, rows) -> np.ndarray:
    """First token of each row: windows are told apart by it."""
    return source.read(np.asarray(rows)).first.tokens[:, 0] - FIRST


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Order.


def test_each_pass_has_every_window_once_in_an_order_of_its_own(corpus):
    source = source_of(corpus)
    n = source.rows
    passes = [windows_of(source, np.arange(p * n, (p + 1) * n)) for p in range(4)]
    for each in passes:
        np.testing.assert_array_equal(np.sort(each), source.windows)
    for a in range(4):
        # Two random orders agree in one place on average; none in its own order.
        assert (np.diff(passes[a]) > 0).mean() < 0.65
        for b in range(a):
            assert (passes[a] == passes[b]).sum() < 15


def test_an_order_has_a_name(corpus):
    rows = np.arange(200)
    first = windows_of(source_of(corpus), rows)
    np.testing.assert_array_equal(windows_of(source_of(corpus), rows), first)
    assert (windows_of(source_of(corpus, seed=4), rows) != first).mean() > 0.9
    assert (windows_of(source_of(corpus, stream="later"), rows) != first).mean() > 0.9


def test_rows_far_out_are_rows_of_a_pass(corpus):
    source = source_of(corpus)
    far = 2**33 + np.arange(64)
    rows = source.read(far)
    np.testing.assert_array_equal(rows.row_key[:, 0], 2)
    np.testing.assert_array_equal(rows.row_key[:, 1], np.arange(64))
    assert np.isin(windows_of(source, far), source.windows).all()


# Spans.


def test_a_span_ends_with_its_document(corpus):
    source = source_of(corpus)
    rows = source.read(np.arange(source.rows))
    for span in (rows.first, rows.second):
        assert span.tokens.shape == (source.rows, 128)
        start = span.tokens[:, 0] - FIRST
        document = np.searchsorted(corpus.documents[:, 0], start, side="right") - 1
        np.testing.assert_array_equal(
            span.length, np.minimum(corpus.ends[document] - start, 128)
        )
        at = np.arange(128)
        inside = at < span.length[:, None]
        there = start[:, None] + at
        np.testing.assert_array_equal(span.tokens, np.where(inside, there + FIRST, 0))
        marks = corpus.marks[np.where(inside, there, 0)]
        np.testing.assert_array_equal(span.marks, np.where(inside, marks, 0))


def test_the_second_candidate_is_any_sentence_of_any_other_document(tmp_path):
    corpus = numbered([[4], [3] * 2, [2] * 5, [1, 1], [6]], tmp_path)
    source = source_of(corpus)
    count = 40 * 1500
    rows = source.read(np.arange(count))
    starts = np.searchsorted(corpus.sentences, rows.second.tokens[:, 0] - FIRST)
    np.testing.assert_array_equal(
        corpus.sentences[starts], rows.second.tokens[:, 0] - FIRST
    )
    document = np.array([0, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4])
    first = np.searchsorted(corpus.sentences, rows.first.tokens[:, 0] - FIRST)
    own, other = document[first], document[starts]
    assert (own != other).all()
    for each in range(5):
        counts = np.bincount(other[own == each], minlength=5)
        assert chisquare(np.delete(counts, each)).pvalue > RARE
    for each in range(5):
        counts = np.bincount(starts[other == each], minlength=11)[document == each]
        assert len(counts) == 1 or chisquare(counts).pvalue > RARE


def test_second_candidates_of_neighbouring_rows_are_unrelated(tmp_path):
    corpus = numbered([[1] * 10] * 17, tmp_path)
    source = source_of(corpus)
    rows = source.read(np.arange(64_000))
    start = rows.second.tokens[:, 0] - FIRST
    document, sentence = start // 10, start % 10
    for a, b in (
        (sentence, document),
        (sentence[1:], sentence[:-1]),
        (document[1:] % 4, document[:-1] % 4),
    ):
        table = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(table, (a, b), 1)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        freedom = table.size - 1 - sum(table.shape) + 2
        test = chisquare(
            table.reshape(-1), expected.reshape(-1), ddof=table.size - 1 - freedom
        )
        assert test.pvalue > RARE


def test_one_document_has_no_second(tmp_path):
    corpus = numbered([[5] * 30, [5] * 30], tmp_path, held_out=(1,))
    for split in (0, 1):
        with pytest.raises(UserError, match="has 1 document in split"):
            source_of(corpus, split=split)
    assert source_of(corpus, layout="blocks").rows == 3


def test_training_never_reads_what_is_held_out(tmp_path):
    held_out = tuple(range(0, 60, 7))
    corpus = numbered(lifelike(0, 60, (1, 3, 9, 40)), tmp_path, held_out=held_out)
    bound = corpus.documents[:, 0]
    for split in (0, 1):
        for layout in ("pairs", "blocks"):
            source = source_of(corpus, split=split, layout=layout)
            rows = source.read(np.arange(3 * source.rows))
            for span in (rows.first, rows.second) if rows.second else (rows.first,):
                for tokens, length in zip(span.tokens, span.length, strict=True):
                    at = tokens[[0, length - 1]] - FIRST
                    document = np.searchsorted(bound, at, side="right") - 1
                    assert (corpus.documents[document, 2] == split).all()


# Position.


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_do_not_depend_on_threads_or_on_where_one_starts(corpus, threads):
    source = source_of(corpus)
    local = np.arange(16)
    steps = list(batches(source, 16, local, start=0, stop=20, threads=threads))
    assert len(steps) == 20
    for step, rows in enumerate(steps):
        equal(rows, source.read(step * 16 + local))
    resumed = list(batches(source, 16, local, start=13, stop=20, threads=threads))
    assert len(resumed) == 7
    for a, b in zip(steps[13:], resumed, strict=True):
        equal(a, b)


def test_hosts_read_their_rows_of_the_global_batch(corpus):
    source = source_of(corpus)
    whole = next(batches(source, 16, np.arange(16), start=5, stop=6, threads=1))
    for local in (np.arange(8), np.arange(8, 16), np.array([1, 2, 9])):
        part = next(batches(source, 16, local, start=5, stop=6, threads=1))
        equal(part, jax.tree.map(lambda x, local=local: x[local], whole))


# Chance by name.


def draws_by_window(drawn, passes: int) -> dict[int, list[bytes]]:
    """For each window, the bytes of its batch row in each pass."""
    out: dict[int, list[bytes]] = {}
    n = drawn.source.rows
    for number in range(passes):
        rows = np.arange(number * n, (number + 1) * n)
        batch = drawn.batch(rows)
        for i, window in enumerate(windows_of(drawn.source, rows).tolist()):
            fields = jax.tree.leaves(batch)
            row = b"".join(np.ascontiguousarray(x[i]).tobytes() for x in fields)
            out.setdefault(window, []).append(row)
    return out


@pytest.mark.parametrize("nsp", [True, False])
def test_static_draws_repeat_and_fresh_ones_do_not(tmp_path, nsp):
    corpus = numbered([[20] * 30] * 4, tmp_path)
    static = road(corpus, nsp=nsp, data=MaskedData(draws=3))
    for rows in draws_by_window(static, 7).values():
        assert len(set(rows[:3])) == 3
        assert rows[3:6] == rows[:3]
        assert rows[6] == rows[0]
    fresh = road(corpus, nsp=nsp)
    for rows in draws_by_window(fresh, 7).values():
        assert len(set(rows)) == 7


def test_streams_and_seeds_draw_differently(corpus):
    rows = np.arange(64)
    masks = [
        road(corpus, length=16, nsp=False, seed=seed, stream=stream, shuffle=False)
        .batch(rows)
        .predictions
        for seed, stream in ((0, "a"), (1, "a"), (0, "b"))
    ]
    for a in range(3):
        for b in range(a):
            assert (masks[a] != masks[b]).any(axis=1).mean() > 0.8


# Rows without pairs.


def test_rows_without_pairs_show_each_token_once_a_pass(corpus):
    drawn = road(corpus, length=64, nsp=False)
    for batch in drawn.passes(2):
        tokens = unmasked(batch)
        text = tokens[tokens >= FIRST]
        np.testing.assert_array_equal(
            np.sort(text), FIRST + np.arange(corpus.num_tokens)
        )
        lengths = batch.mask.sum(axis=1)
        assert not batch.token_types.any()
        assert (tokens[:, 0] == 2).all()
        assert (tokens[np.arange(len(tokens)), lengths - 1] == 3).all()
        assert ((tokens == 0) == ~batch.mask).all()
        assert (tokens == 3).sum() == len(tokens)


# Evaluation.


def test_evaluation_rows_are_fixed_and_the_filling_weighs_nothing(corpus):
    drawn = road(corpus, shuffle=False, stream="evaluate")
    n = drawn.source.rows
    rows = drawn.source.read(np.arange(n + 10))
    np.testing.assert_array_equal(
        rows.first.tokens[:n, 0] - FIRST, drawn.source.windows
    )
    assert rows.valid[:n].all() and not rows.valid[n:].any()
    batch = drawn.batch(np.arange(n + 10))
    assert (batch.weights[:n].sum(axis=1) > 0).all()
    assert not batch.weights[n:].any() and not batch.nsp_weights[n:].any()
    assert (batch.nsp_weights[:n] == 1).all()
    equal(drawn.batch(np.arange(n + 10)), batch)
    # The same row is drawn alike in whichever batch it comes.
    equal(drawn.batch(np.arange(7, 19)), jax.tree.map(lambda x: x[7:19], batch))
    valid = jax.tree.map(lambda x: x[:n], batch)
    assert 0.3 < pairs_of(valid, corpus.special).is_random.mean() < 0.9


def test_a_limit_keeps_rows_from_all_over_the_plan(corpus):
    source = source_of(corpus, shuffle=False)
    few = source_of(corpus, shuffle=False, limit=10)
    assert few.rows == 10
    at = np.searchsorted(source.windows, few.windows)
    np.testing.assert_array_equal(at, np.arange(10) * source.rows // 10)
    assert source_of(corpus, shuffle=False, limit=10**6).rows == source.rows
