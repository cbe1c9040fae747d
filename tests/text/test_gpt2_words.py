"""Words by Python's `re` against the library's pattern, character by character."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from jaxlm.text.tokenizers.byte_bpe import spelled
from jaxlm.text.tokenizers.gpt2_words import Gpt2Words, _kind

LIBRARY = pre_tokenizers.ByteLevel(add_prefix_space=False)
SURE = [  # and not of private use, which are 137,000 and all alike
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) not in ("Cs", "Co") and _kind(char) != "unsure"
]


def of_library(text):
    return [word for word, _ in LIBRARY.pre_tokenize_str(text)]


@pytest.mark.parametrize("beside", ["a", "1", "!", " "])
def test_every_character_is_of_the_library_s_kind(beside):
    assert len(SURE) > 100_000
    for at in range(0, len(SURE), 4000):
        words, part = Gpt2Words(), SURE[at : at + 4000]
        text = "".join(f"{beside}{char}{beside}\n" for char in part)
        found = words(text)
        assert "".join(found) == text
        assert list(map(spelled, found)) == of_library(text)


marks = st.sampled_from([" ", "  ", "\n", "\t", "'s", "'S", "'ll", "'", "don't", "1a"])
texts = st.text() | st.lists(marks | st.sampled_from("aé夜9²🔬\u3000«.")).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_words_are_the_library_s(text):
    found = Gpt2Words()(text)
    if found is not None:
        assert "".join(found) == text
        assert list(map(spelled, found)) == of_library(text)
    else:
        assert any(_kind(char) == "unsure" for char in text)


def test_what_is_learnt_of_one_text_serves_the_next():
    words = Gpt2Words()
    assert words("Où étais-tu?") == ["Où", " étais", "-", "tu", "?"]
    assert words("今天 很好。") == ["今天", " 很好", "。"]
    assert words("Où 今天?") == ["Où", " 今天", "?"]
    assert words("") == []


def test_a_letter_that_is_younger_than_some_tables_is_not_decided():
    words = Gpt2Words()
    assert words("a\ua7f2") is None  # a letter since Unicode 14
    assert words("a\u0378") is None  # not assigned
    assert words("a🔬") == ["a", "🔬"]  # no letter, in whichever version
