"""Words, phrases and entities on tokens: aligned or dropped, whoever found them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.config import RunConfig, TextConfig, bert
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.text.spans.finders import Lexicon, open_finders, read_lexicon
from jaxlm.text.spans.marks import Span, mark_spans
from jaxlm.text.tokenizers.words import WordPiece
from jaxlm.types import Mark, UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["new", "yor", "##k", "gpt", "-", "2", *"abc", "##a", "##b", "##c"]
VOCABULARY = [*SPECIAL, *WORDS, *"哈尔滨是黑龙江的省会，在写。"]
TOKENIZER = WordPiece(VOCABULARY, lowercase=True)


def marked(texts, *finders):
    """(tokens, marks, what was found, what was dropped)."""
    encoded = TOKENIZER.encode_flat(texts)
    spans = [[find(text) for text in texts] for find in finders]
    out = mark_spans(texts, encoded, TOKENIZER, spans)
    return [TOKENIZER.token(i) for i in encoded.ids], out.marks, out.found, out.dropped


def bits(marks, bit):
    return np.flatnonzero(marks & bit).tolist()


def test_a_list_is_matched_longest_first_and_by_whole_words():
    lexicon = Lexicon(["黑龙", "黑龙江", "龙江的", "New York", "Yor"])
    assert lexicon("哈尔滨在黑龙江的") == [Span(4, 7, "entity")]
    assert lexicon("New York") == [Span(0, 8, "entity")]
    assert lexicon("New Yorker, York") == []  # no part of a word
    assert lexicon("黑龙黑龙江") == [Span(0, 2, "entity"), Span(2, 5, "entity")]


def test_marks_lie_on_the_tokens_of_the_text():
    texts = ["哈尔滨是 New York 。", "", "在黑龙江"]
    tokens, marks, found, dropped = marked(texts, Lexicon(["黑龙江", "New York"]))
    assert tokens == [*"哈尔滨是", "new", "yor", "##k", "。", *"在黑龙江"]
    assert (found, dropped) == (2, 0)
    assert bits(marks, Mark.ENTITY) == [4, 9]
    assert bits(marks, Mark.IN_ENTITY) == [4, 5, 6, 9, 10, 11]
    assert bits(marks, Mark.WORD) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_jieba_gives_words_phrases_and_names():
    text = "哈尔滨是黑龙江的省会"
    _, marks, _, dropped = marked([text], *open_finders("rjieba", ""))
    assert dropped == 0
    assert bits(marks, Mark.WORD) == [0, 3, 4, 7, 8]
    assert bits(marks, Mark.ENTITY) == [0, 4]
    assert bits(marks, Mark.PHRASE) == [0, 4, 8]
    assert bits(marks, Mark.IN_PHRASE) == [0, 1, 2, 4, 5, 6, 8, 9]


def test_the_first_finder_wins_where_spans_of_a_kind_overlap():
    _, marks, found, dropped = marked(
        ["哈尔滨是黑龙江"], Lexicon(["滨是黑"]), *open_finders("rjieba", "")
    )
    assert bits(marks, Mark.ENTITY) == [2] and bits(marks, Mark.IN_ENTITY) == [2, 3, 4]
    assert bits(marks, Mark.PHRASE) == [0, 4]
    assert (found, dropped) == (3, 0)


def test_what_does_not_fit_the_tokens_is_dropped_and_counted():
    def finder(text):
        return [Span(1, 3, "entity"), Span(3, 4, "phrase"), Span(4, 5, "entity")]

    # Inside a word; a space, which is no token; an ideograph.
    tokens, marks, found, dropped = marked(["abc 哈"], finder)
    assert tokens == ["a", "##b", "##c", "哈"]
    assert (found, dropped) == (1, 2) and bits(marks, Mark.ENTITY) == [3]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("哈尔滨ab c-2é\u0301。\x07\ufeff", max_size=12), max_size=4),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 5)), max_size=6),
)
def test_any_spans_leave_the_tokens_alone_and_hold_whole_words(texts, places):
    def finder(text):
        spans = [Span(a, a + n, "entity") for a, n in sorted(places)]
        kept, at = [], 0
        for span in spans:
            if at <= span.start and span.end <= len(text):
                kept.append(span)
                at = span.end
        return kept

    encoded = TOKENIZER.encode_flat(texts)
    starts = encoded.word_start
    spans = [[finder(text) for text in texts]]
    out = mark_spans(texts, encoded, TOKENIZER, spans)
    assert len(out.marks) == len(encoded.ids)
    np.testing.assert_array_equal((out.marks & Mark.WORD) > 0, starts)
    inside = (out.marks & Mark.IN_ENTITY) > 0
    # A word is inside or outside, whole.
    for at in np.flatnonzero(~starts):
        assert inside[at] == inside[at - 1]
        assert not out.marks[at] & Mark.ENTITY
    assert (out.marks & Mark.ENTITY > 0).sum() == out.found
    assert out.found + out.dropped == sum(len(finder(text)) for text in texts)


def corpus_of(tmp_path, name, text, processes=1, **options):
    (tmp_path / "t.txt").write_text(text)
    config = RunConfig(
        model=bert("tiny", vocab_size=60), text=TextConfig(language="zh")
    )
    prepare(
        config,
        [str(tmp_path / "t.txt")],
        str(tmp_path / name),
        options=ReadOptions(**options),
        processes=processes,
    )
    return open_corpus(str(tmp_path / name))


TEXT = "哈尔滨是黑龙江的省会。\n\n他在北京写字。\n\n哈尔滨很冷。\n"


def test_a_list_changes_just_the_rows_that_hold_its_entries(tmp_path):
    (tmp_path / "lexicon.txt").write_text("北京写\t12\n", encoding="utf-8")
    lexicon = str(tmp_path / "lexicon.txt")
    plain = corpus_of(tmp_path, "plain", TEXT, spans="rjieba")
    mine = corpus_of(tmp_path, "mine", TEXT, spans="rjieba", lexicon=lexicon)
    assert plain.manifest.recipe.spans == "rjieba" and plain.manifest.recipe.marks_spans
    everything = np.zeros(1, np.int64), plain.num_tokens
    (one, before), (two, after) = plain.read(*everything), mine.read(*everything)
    np.testing.assert_array_equal(one, two)
    spelled = [plain.tokenizer.token(i) for i in one[0]]
    changed = np.flatnonzero(before[0] != after[0])
    assert {spelled[i] for i in changed} <= set("北京写") and len(changed)
    by_two = corpus_of(
        tmp_path, "two", TEXT * 3000, spans="rjieba", lexicon=lexicon, processes=2
    )
    by_one = corpus_of(tmp_path, "one", TEXT * 3000, spans="rjieba", lexicon=lexicon)
    assert by_one.sha256 == by_two.sha256


def test_text_without_phrases_says_so(tmp_path):
    corpus = corpus_of(tmp_path, "greek", "αβγ δεζ.\n\nηθι κλμ.\n", spans="rjieba")
    assert any("no phrase and no entity" in note for note in corpus.manifest.notes)


@pytest.mark.parametrize("content, message", [("", "is empty"), ("\n \n", "is empty")])
def test_a_list_that_will_not_do(tmp_path, content, message):
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_lexicon(str(tmp_path / "l.txt"))


JIEBA = """\ufeff云计算 5
李小福 2 nr

easy_install 3 eng
好用 300
台中
凱特琳 nz
Edu Trust认证 2000
台中
"""


def test_a_dictionary_of_jieba_is_read_as_jieba_reads_it(tmp_path):
    (tmp_path / "d.txt").write_text(JIEBA)
    lexicon = read_lexicon(str(tmp_path / "d.txt"))
    words = ["云计算", "李小福", "easy_install", "好用", "台中", "凱特琳"]
    assert lexicon.entries == (*words, "Edu Trust认证")
    notes = "; ".join(lexicon.notes)
    assert "6 lines with a frequency" in notes and "1 line left out as blank" in notes
    assert "1 line repeated" in notes


def test_jieba_itself_reads_the_same(tmp_path):
    jieba = pytest.importorskip("jieba")
    (tmp_path / "d.txt").write_text(JIEBA)
    words = []
    own = jieba.Tokenizer()
    own.initialized = True
    own.add_word = lambda word, freq=None, tag=None: words.append(word)
    with open(tmp_path / "d.txt", "rb") as file:
        own.load_userdict(file)
    assert tuple(dict.fromkeys(words)) == read_lexicon(str(tmp_path / "d.txt")).entries


def test_other_lists_keep_what_is_behind_a_space(tmp_path):
    for text in ("new york\nWindows 10\n", "小米 10\n华为\n北京\n上海\n"):
        (tmp_path / "l.txt").write_text(text)
        lexicon = read_lexicon(str(tmp_path / "l.txt"))
        assert list(lexicon.entries) == text.splitlines() and not lexicon.notes
    (tmp_path / "l.txt").write_text("a\u2028b\nc\x85d\n")
    assert len(read_lexicon(str(tmp_path / "l.txt")).entries) == 2


def test_entries_that_match_nowhere_are_noted(tmp_path):
    (tmp_path / "l.txt").write_text("哈尔滨\n北京\n黑龍江\nHarbin\n")
    options = {"spans": "rjieba", "lexicon": str(tmp_path / "l.txt")}
    notes = corpus_of(tmp_path, "c", TEXT, **options).manifest.notes
    said = "lexicon: 2 of 4 entries are nowhere in the text"
    (note,) = [note for note in notes if note.startswith(said)]
    assert note.endswith("黑龍江, Harbin") and "script must be" in note


def test_mistakes(tmp_path, monkeypatch):
    import sys

    with pytest.raises(UserError, match="cannot be read"):
        open_finders("none", str(tmp_path / "absent.txt"))
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(UserError, match="pip install 'jaxlm\\[zh\\]'"):
        open_finders("rjieba", "")
    config = RunConfig(model=bert("tiny"), text=TextConfig(tokenizer="sentencepiece"))
    with pytest.raises(UserError, match="need WordPiece's tokens"):
        prepare(
            config,
            ["shipped:austen"],
            str(tmp_path / "c"),
            options=ReadOptions(spans="rjieba"),
        )
