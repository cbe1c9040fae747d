"""Runs between white space against the library on the whole text."""

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from jaxlm.text.tokenizers.bpe import ByteBpe, byte_runs

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"], ["'", "s"], ["Ċ", "Ċ"], ["Ġ", "Ġ"]]
TOKENS = [*ALPHABET, *("".join(pair) for pair in MERGES)]
CUT = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str


def words_of(text):
    return [word for word, _ in CUT(text)]


@pytest.mark.parametrize("beside", ["a", "1", "!", " "])
def test_every_character_is_cut_as_in_the_whole_text(beside):
    chars = [
        chr(code)
        for code in range(sys.maxunicode + 1)  # without private use, all alike
        if unicodedata.category(chr(code)) not in ("Cs", "Co")
    ][:160_000]
    assert len(chars) == 160_000
    text = "".join(f"{beside}{char}{beside}\n" for char in chars)
    found = byte_runs(text)
    assert "".join(found) == text
    assert [word for run in found for word in words_of(run)] == words_of(text)


marks = st.sampled_from([" ", "  ", "\n", "\t", "'s", "'S", "'ll", "'", "don't", "1a"])
texts = st.text() | st.lists(
    marks | st.sampled_from("aé夜9²🔬\u3000\u2028\x1c\u200b«.the")
).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts, st.booleans())
def test_tokens_are_those_of_the_whole_text(text, prefix_space):
    ids = {token: i for i, token in enumerate(TOKENS)}
    library = Library(models.BPE(ids, [(left, right) for left, right in MERGES]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(prefix_space)
    want = library.encode(text)
    got = ByteBpe(TOKENS, MERGES, prefix_space=prefix_space).encode(text)
    assert got.ids.tolist() == want.ids
    words = np.array(want.word_ids, np.int64)
    assert got.word_start.tolist() == (np.diff(words, prepend=-1) != 0).tolist()
