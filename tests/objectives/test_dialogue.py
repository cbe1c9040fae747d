"""Rows of dialogues: what is in them is told by tokens that are their own places."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from reference.numbered import FIRST, Numbered, numbered
from reference.sources import open_source
from scipy.stats import chisquare

from jaxlm.keys import key_for
from jaxlm.objectives.dialogue import dialogue_row
from jaxlm.types import Mark, Rows, TokenSpan, UserError

LENGTH = 32
RARE = 1e-8
TURNS = [[4, 3, 5], [2, 2], [6, 1, 1, 7, 2], [40, 3, 60], [1] * 9]
SPEAKERS = ["010", "01", "00110", "011", "010101010"]


@pytest.fixture
def corpus(tmp_path) -> Numbered:
    made = numbered(TURNS, tmp_path)
    marks = made.marks.copy()
    ends = np.append(made.sentences[1:], made.num_tokens)
    speakers = "".join(SPEAKERS)
    for who, start, end in zip(speakers, made.sentences, ends, strict=True):
        if who == "1":
            marks[start:end] |= int(Mark.SPEAKER)
    return dataclasses.replace(made, marks=marks)


def source_of(corpus, **options):
    options = {"split": 0, "layout": "dialogues", "seed": 3, "stream": "t", **options}
    return open_source(corpus, length=LENGTH, **options)


@functools.cache
def transform(special, length=LENGTH, replaced=0.5):
    one = functools.partial(
        dialogue_row, length=length, replaced=replaced, special=special
    )

    @jax.jit
    def rows_of(rows):
        keys = key_for(3, "t/pair", rows.row_key[:, 0], rows.row_key[:, 1])
        return jax.vmap(one)(keys, rows)

    return rows_of


def drawn(corpus, rows, **options):
    rows = source_of(corpus).read(np.asarray(rows))
    return rows, jax.device_get(transform(corpus.special, **options)(rows))


def turns_in(corpus, row):
    """(its turns of the corpus, roles) of a row, by what stands between its [SEP]."""
    tokens = row.tokens[: row.length]
    special = corpus.special
    assert tokens[0] == special.cls and tokens[-1] == special.sep
    ends = np.flatnonzero(tokens == special.sep)
    begins = [1, *(ends[:-1] + 1)]
    found, roles = [], []
    for begin, end in zip(begins, ends, strict=True):
        places = tokens[begin:end] - FIRST
        turn = np.searchsorted(corpus.sentences, places[0], side="right") - 1
        # A turn from its first token on, in one piece.
        np.testing.assert_array_equal(
            places, corpus.sentences[turn] + np.arange(len(places))
        )
        role = set(row.token_types[begin : end + 1].tolist())
        assert len(role) == 1
        found.append(int(turn))
        roles.append(role.pop())
    return found, roles


DIALOGUE = np.repeat(np.arange(len(TURNS)), [len(each) for each in TURNS])


def test_windows_cover_every_turn_and_end_with_three(corpus):
    windows = np.searchsorted(corpus.sentences, source_of(corpus).windows)
    assert windows.tolist() == [0, 3, 5, 7, 10, 13, 16, 19]


def test_a_row_is_three_turns_with_roles(corpus):
    rows, batch = drawn(corpus, np.arange(8), replaced=0.0)
    starts = np.searchsorted(corpus.sentences, rows.first.tokens[:, 0, 0] - FIRST)
    speakers = np.array(list("".join(SPEAKERS))) == "1"
    for i, start in enumerate(starts.tolist()):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        turns, roles = turns_in(corpus, row)
        count = min(3, len(TURNS[DIALOGUE[start]]))
        assert turns == list(range(start, start + count))
        said = speakers[start : start + count]
        np.testing.assert_array_equal(roles, said != said[0])
        assert not row.nsp_label and not row.token_types[0]
        assert not row.token_types[row.length :].any()
        inside = (row.tokens >= FIRST) & (np.arange(LENGTH) < row.length)
        np.testing.assert_array_equal(row.candidate, inside)
        np.testing.assert_array_equal(
            row.marks[inside], corpus.marks[row.tokens[inside] - FIRST]
        )


def test_half_of_the_rows_have_one_turn_of_another_dialogue(corpus):
    count = 4000
    _, batch = drawn(corpus, np.arange(count))
    share = batch.nsp_label.mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(count)
    places, others = [], []
    for i in range(count):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        turns, roles = turns_in(corpus, row)
        of = DIALOGUE[turns]
        values, counts = np.unique(of, return_counts=True)
        if not row.nsp_label:
            assert len(values) == 1
            continue
        assert len(values) == 2 and min(counts) == 1
        if len(turns) == 3:
            strange = int(np.flatnonzero(of == values[counts == 1][0])[0])
            own = values[counts == 2][0]
            places.append(strange)
            others.append((own, of[strange], turns[strange]))
            # It takes the role of what it replaces.
            assert roles[0] == 0
    assert chisquare(np.bincount(places, minlength=3)).pvalue > RARE
    for own in range(len(TURNS)):
        from_each = np.bincount([b for a, b, _ in others if a == own], minlength=5)
        assert from_each[own] == 0
        if from_each.sum():
            assert chisquare(np.delete(from_each, own)).pvalue > RARE
    said = [t for _, dialogue, t in others if dialogue == 4]
    assert chisquare(np.bincount(said, minlength=len(DIALOGUE))[13:]).pvalue > RARE


def test_chance_is_a_rows_own(corpus):
    """However the rows are cut into batches, and by a name."""
    _, whole = drawn(corpus, np.arange(64))
    _, part = drawn(corpus, np.arange(24, 40))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[24:40], b), whole, part)
    rows = source_of(corpus, stream="u").read(np.arange(64))
    again = jax.device_get(transform(corpus.special)(rows))
    assert (again.tokens != whole.tokens).any()


def plainly_cut(lengths, room):
    """The longest loses a token until they fit, of equals the last."""
    lengths = list(lengths)
    while sum(lengths) > room:
        longest = max(range(len(lengths)), key=lambda i: (lengths[i], i))
        lengths[longest] -= 1
    return lengths


@pytest.mark.parametrize("length", [10, 23, 64])
def test_the_longest_is_cut(corpus, length):
    rng = np.random.default_rng(0)
    count = 200
    lengths = rng.integers(1, 41, (count, 3)).astype(np.int32)
    lengths[rng.random(count) < 0.3, 2] = 0  # a dialogue of two turns
    tokens = np.tile(
        np.arange(FIRST, FIRST + 3, dtype=np.int32)[:, None], (count, 1, 40)
    )
    marks = np.zeros(tokens.shape, np.uint8)
    turns = TokenSpan(tokens, marks, lengths)
    other = TokenSpan(tokens[:, 0], marks[:, 0], lengths[:, 0])
    keys = np.zeros(count, np.uint32), np.zeros((count, 2), np.uint32)
    rows = Rows(turns, other, *keys, np.ones(count, bool))
    found = transform(corpus.special, length=length, replaced=0.0)(rows).tokens
    got = np.stack([(found == FIRST + turn).sum(1) for turn in range(3)], axis=1)
    room = length - 1 - (lengths > 0).sum(1)
    want = [plainly_cut(*each) for each in zip(lengths, room.tolist(), strict=True)]
    np.testing.assert_array_equal(got, want)


def test_one_dialogue_has_no_other(tmp_path):
    with pytest.raises(UserError, match=r"1 document in split 0.*add some"):
        source_of(numbered([[3, 3]], tmp_path))
    with pytest.raises(UserError, match="no training rows"):
        source_of(numbered([[3], [4]], tmp_path))
