"""Plans: where rows start."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from reference.numbered import lifelike, numbered
from reference.sources import open_source

from jaxlm.data.layouts import chunk_starts, rows_of_zeros
from jaxlm.types import UserError


@pytest.fixture
def corpus(tmp_path):
    held_out = (0, 5, 17, 199)
    return numbered(lifelike(0, 200, (1, 2, 3, 9, 40)), tmp_path, held_out=held_out)


def plan(corpus, split: int, layout: str, length: int):
    """The first token of each row."""
    options = {"seed": 0, "stream": "test", "split": split}
    return open_source(corpus, layout=layout, length=length, **options).windows


def spans(corpus, split: int) -> list[tuple[int, int]]:
    inside = corpus.documents[:, 2] == split
    return list(zip(corpus.documents[inside, 0], corpus.ends[inside], strict=True))


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("length", [16, 128])
def test_blocks_cover_each_token_of_the_split_once(corpus, split, length):
    seen = np.zeros(corpus.num_tokens, int)
    starts = plan(corpus, split, "blocks", length)
    for first, end in spans(corpus, split):
        for start in starts[(starts >= first) & (starts < end)]:
            seen[start : min(start + length - 2, end)] += 1
    expected = np.zeros_like(seen)
    for first, end in spans(corpus, split):
        expected[first:end] = 1
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("length", [16, 128])
def test_chunks_leave_no_sentence_out(corpus, split, length):
    starts = plan(corpus, split, "pairs", length)
    assert np.isin(starts, corpus.sentences).all()
    assert (np.diff(starts) > 0).all()
    sentence_ends = np.append(corpus.sentences[1:], corpus.num_tokens)
    planned = 0
    for first, end in spans(corpus, split):
        here = starts[(starts >= first) & (starts < end)]
        planned += len(here)
        assert here[0] == first
        # A chunk ends with the sentence that reaches the target: none begins later.
        reached = np.minimum(here + length - 3, end)
        chunk_end = sentence_ends[np.searchsorted(sentence_ends, reached)]
        assert (here[1:] <= chunk_end[:-1]).all()
        assert chunk_end[-1] >= end
    assert planned == len(starts)


def test_a_plan_made_in_parts_is_as_good(corpus):
    whole = plan(corpus, 0, "pairs", 128)
    first, end = np.array(spans(corpus, 0)).T
    parts = chunk_starts(corpus.sentences, first, end, 125, block=50)
    assert np.isin(parts, corpus.sentences).all()
    assert (np.diff(parts) > 0).all()
    # Only the turns by which steps are rounded fall otherwise.
    assert 0 < abs(len(parts) / len(whole) - 1) < 0.05


def test_a_plan_is_made_once_and_mapped(corpus, tmp_path):
    first = plan(corpus, 0, "pairs", 128)
    (file,) = (tmp_path / "plans").iterdir()
    made = file.stat()
    again = plan(corpus, 0, "pairs", 128)
    assert not again.flags.owndata and not again.flags.writeable
    assert again.dtype == np.int64
    np.testing.assert_array_equal(again, first)
    (file,) = (tmp_path / "plans").iterdir()
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (
        made.st_ino,
        made.st_mtime_ns,
    )


def test_a_damaged_plan_is_made_again(corpus, tmp_path):
    first = plan(corpus, 0, "pairs", 128).copy()
    (file,) = (tmp_path / "plans").iterdir()
    sound, draw = file.read_bytes(), np.random.default_rng(0)
    for trial in range(40):
        harmed = bytearray(sound)
        at = int(draw.integers(len(sound)))
        harmed[at] ^= 1 << trial % 8
        file.write_bytes(harmed if trial % 4 else sound[:at])
        np.testing.assert_array_equal(plan(corpus, 0, "pairs", 128), first)
        assert file.read_bytes() == sound


def test_a_corpus_that_cannot_be_written_is_planned_in_memory(tmp_path):
    corpus = numbered([[5, 5]] * 4, tmp_path / "gone" / "away")
    np.testing.assert_array_equal(
        plan(corpus, 0, "blocks", 8), [0, 6, 10, 16, 20, 26, 30, 36]
    )


def test_an_empty_split_is_an_error_with_the_numbers(tmp_path):
    corpus = numbered([[5, 5]] * 4, tmp_path, ended=True)
    for layout in ("pairs", "blocks", "stream"):
        with pytest.raises(UserError, match=r"no held-out rows: 0 documents"):
            plan(corpus, 1, layout, 128)


@pytest.mark.parametrize("layout", ["blocks", "packed", "pairs", "dialogues"])
def test_rows_of_zeros_are_shaped_as_those_that_are_read(corpus, layout):
    options = {"seed": 0, "stream": "test", "split": 0}
    source = open_source(corpus, layout=layout, length=16, **options)
    read, zeros = source.read(np.arange(3)), rows_of_zeros(layout, 3, 16)
    shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(y)] for y in (read, zeros)]
    assert shapes[0] == shapes[1]
