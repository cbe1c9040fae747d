"""Character ids are bilm-tf's, by a plain copy of its rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import sentence_characters

from jaxlm.text.characters import BEGIN_WORD, check_characters, word_characters
from jaxlm.types import UserError


def bilm(word, slots=50):
    """Batcher.batch_sentences of one word: UnicodeCharsVocabulary's code, plus 1."""
    code = np.full(slots, 260)
    if word in ("<S>", "</S>"):
        code[:3] = 258, 256 if word == "<S>" else 257, 259
        return code + 1
    code[0], k = 258, 0
    for k, byte in enumerate(word.encode("utf-8", "ignore")[: slots - 2], start=1):
        code[k] = byte
    code[k + 1] = 259
    return code + 1


NASTY = [
    *("cat", "<S>", "</S>", "<UNK>", "", " ", "\x00", "\n", "naïve", "好", "🦜"),
    *(
        "x" * 47,
        "x" * 48,
        "x" * 49,
        "x" * 10_000,
        "好" * 16,
        "好" * 17,
        "a" + "好" * 16,
    ),
    "a\ud800b",  # half of a pair: UTF-8 has no such character
]


def test_the_nasty_words_have_bilms_ids():
    for word, row in zip(NASTY, word_characters(NASTY), strict=True):
        assert row.tolist() == bilm(word).tolist(), ascii(word[:20])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=5), st.integers(3, 12))
def test_any_words_have_bilms_ids(words, slots):
    got = word_characters(words, slots=slots)
    assert got.shape == (len(words), slots) and got.dtype == np.uint16
    for word, row in zip(words, got, strict=True):
        assert row.tolist() == bilm(word, slots).tolist()
    check_characters(got)


def test_a_batch_has_boundaries_and_zeros_past_its_rows():
    sentences = [["Die", "Katze"], [], ["好"]]
    ids, mask = sentence_characters(sentences)
    assert ids.shape == (3, 4, 50)
    assert mask.tolist() == [[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]]
    for row, sentence in zip(ids, sentences, strict=True):
        wanted = [bilm(word) for word in ("<S>", *sentence, "</S>")]
        np.testing.assert_array_equal(row[: len(wanted)], wanted)
        assert not row[len(wanted) :].any()
    check_characters(ids)


def test_no_sentence_is_an_empty_batch():
    ids, mask = sentence_characters([])
    assert ids.shape == (0, 0, 50) and mask.shape == (0, 0)
    check_characters(ids)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda ids: ids - 1, "begin with 258, not with 259: these are the 261 ids"),
        (lambda ids: ids + 1, "run from 99 to 262"),
        (lambda ids: ids - 300, "run from -202 to"),
        (lambda ids: ids[..., 1:], "begin with 98, not with 259$"),
    ],
)
def test_another_numbering_is_refused(change, message):
    ids = word_characters(["aa"]).astype(np.int64)
    assert ids[0, 0] == BEGIN_WORD
    with pytest.raises(UserError, match=message):
        check_characters(change(ids))
