"""Rows of documents laid end to end, against the same in plain Python."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.numbered import END, FIRST, Numbered, lifelike, numbered
from reference.sources import batches, open_source

from jaxlm.text.corpus import Corpus
from jaxlm.types import UserError

L = 16
HELD_OUT = (0, 1, 5, 17, 18, 19, 59)


@pytest.fixture
def corpus(tmp_path) -> Numbered:
    text = lifelike(0, 60, (1, 3, 9, 40))
    return numbered(text, tmp_path, held_out=HELD_OUT, ended=True)


def source_of(corpus, **options):
    options = {"split": 0, "seed": 3, "stream": "test", "length": L, **options}
    return open_source(corpus, layout="stream", **options)


def stream_of(corpus: Numbered, split: int) -> list[int]:
    """The documents of a split, token by token."""
    tokens: list[int] = []
    for (first, _, of), end in zip(corpus.documents, corpus.ends, strict=True):
        if of == split:
            tokens += [*range(FIRST + first, FIRST + end - 1), END]
    return tokens


def rows_of(corpus: Numbered, split: int, length: int) -> list[list[int]]:
    """Rows as the layout promises them: what is predicted, and the token before."""
    stream = stream_of(corpus, split)
    return [
        [stream[at - 1], *stream[at : at + length]]
        for at in range(0, len(stream), length)
    ]


def texts(span) -> list[list[int]]:
    return [
        row[:n].tolist()
        for row, n in zip(span.tokens, span.length.tolist(), strict=True)
    ]


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("length", [1, 7, 16, 100, 100_000])
def test_rows_are_the_documents_end_to_end(corpus, split, length):
    source = source_of(corpus, split=split, length=length, shuffle=False)
    want = rows_of(corpus, split, length)
    assert source.rows == len(want)
    rows = source.read(np.arange(len(want)))
    assert texts(rows.first) == want
    assert rows.first.tokens.shape == (len(want), length + 1)
    assert rows.second is None
    beyond = np.arange(length + 1) >= rows.first.length[:, None]
    assert not rows.first.tokens[beyond].any() and not rows.first.marks[beyond].any()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 30),
)
def test_whatever_lies_between_the_documents(documents, length):
    held_out = tuple(i for i, (_, held) in enumerate(documents) if held)
    corpus = numbered(
        [[n] for n, _ in documents],
        "gone/away",  # where no plan can be kept for the next example
        held_out=held_out,
        ended=True,
    )
    for split in {int(held) for _, held in documents}:
        source = source_of(corpus, split=split, length=length, shuffle=False)
        want = rows_of(corpus, split, length)
        assert texts(source.read(np.arange(len(want))).first) == want


def test_each_pass_predicts_each_token_of_the_split_once(corpus):
    source = source_of(corpus)
    stream = sorted(stream_of(corpus, 0))
    want = rows_of(corpus, 0, L)
    orders = []
    for number in range(3):
        rows = source.read(number * source.rows + np.arange(source.rows))
        got = texts(rows.first)
        assert sorted(token for row in got for token in row[1:]) == stream
        assert sorted(got) == sorted(want)
        assert sum(len(row) < L + 1 for row in got) == (len(stream) % L > 0)
        orders.append(got)
    for a, b in itertools.combinations(orders, 2):
        assert sum(x == y for x, y in zip(a, b, strict=True)) < 15


def test_marks_are_those_of_the_tokens(corpus):
    source = source_of(corpus)
    span = source.read(np.arange(source.rows)).first
    at = span.tokens - FIRST
    text = (span.tokens != END) & (np.arange(L + 1) < span.length[:, None])
    np.testing.assert_array_equal(span.marks[text], corpus.marks[at[text]])
    assert span.marks[text].any()


def test_rows_do_not_depend_on_threads_hosts_or_where_one_starts(corpus):
    source = source_of(corpus)
    local = np.arange(16)
    stop = 2 * source.rows // 16
    steps = list(batches(source, 16, local, start=0, stop=stop, threads=1))
    for threads, start in ((4, 0), (1, 17), (3, stop - 1)):
        again = list(
            batches(source, 16, local, start=start, stop=stop, threads=threads)
        )
        assert len(again) == stop - start
        for a, b in zip(steps[start:], again, strict=True):
            equal(a, b)
    for part in (np.arange(8, 16), np.array([1, 2, 9])):
        rows = next(batches(source, 16, part, start=5, stop=6, threads=1))
        equal(rows, jax.tree.map(lambda x, part=part: x[part], steps[5]))


def test_a_batch_is_read_at_once(corpus, monkeypatch):
    calls = []
    read = Numbered.read

    def counted(self, starts, width, lengths=None):
        calls.append(lengths)
        return read(self, starts, width, lengths)

    monkeypatch.setattr(Numbered, "read", counted)
    source = source_of(corpus)
    rows = source.read(np.arange(source.rows))
    assert len(calls) == 1
    assert calls[0].sum() == rows.first.length.sum()  # and nothing that is thrown away
    # A row is more than one piece only where something held out lies in it.
    assert len(calls[0]) <= source.rows + len(HELD_OUT) + 1


def test_evaluation_rows_are_fixed_and_a_limit_spreads_them(corpus):
    source = source_of(corpus, split=1, shuffle=False)
    want = rows_of(corpus, 1, L)
    rows = source.read(np.arange(source.rows + 5))
    assert rows.valid.tolist() == [True] * len(want) + [False] * 5
    assert texts(rows.first) == want + [want[-1]] * 5
    few = source_of(corpus, split=1, shuffle=False, limit=4)
    got = texts(few.read(np.arange(4)).first)
    assert got == [want[i * len(want) // 4] for i in range(4)]


def test_documents_that_nothing_ends_are_refused(tmp_path):
    corpus = numbered([[5, 5]] * 4, tmp_path)
    with pytest.raises(UserError, match="no end-of-text token after its documents"):
        source_of(corpus)


def test_what_is_stored_reads_like_what_is_in_memory(tmp_path, monkeypatch):
    from jaxlm.config import BertConfig, RunConfig
    from jaxlm.text.corpus import open_corpus
    from jaxlm.text.prepare import prepare
    from jaxlm.text.recipe import ReadOptions

    text = "".join(f"Word {i} of many.\nAnd {i} more.\n\n" for i in range(300))
    (tmp_path / "a.txt").write_text(text)
    config = RunConfig(model=BertConfig(vocab_size=300))
    prepare(
        config,
        [str(tmp_path)],
        str(tmp_path / "corpus"),
        options=ReadOptions(holdout=0.3),
    )
    corpus = open_corpus(str(tmp_path / "corpus"))
    # Any token will do for one that ends documents: reading asks for no more.
    monkeypatch.setattr(Corpus, "end_of_document", 2)
    stored = dataclasses.replace(corpus, in_memory=False)
    for split in (0, 1):
        a, b = (source_of(each, split=split) for each in (corpus, stored))
        equal(a.read(np.arange(a.rows)), b.read(np.arange(b.rows)))
