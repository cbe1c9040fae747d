"""GPT-1's BPE with a vocabulary of a few words; its own is in test_gpt_ids.py."""

import itertools
import json
import sys

import numpy as np
import pytest

from jaxlm.config import RunConfig, TextConfig, gpt1
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.tokenizers import load_tokenizer, train_tokenizer
from jaxlm.text.tokenizers.bpe import Gpt1Bpe, standardised
from jaxlm.types import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz'.,-!?é"
MERGES = [
    ("t", "h"),
    ("th", "e</w>"),
    ("i", "t</w>"),
    ("n", "i"),
    ("ni", "g"),
    ("nig", "h"),
    ("nigh", "t</w>"),
    ("r", "a"),
    ("n", "'t</w>"),
    ("'", "t</w>"),
]
TOKENS = tuple(
    dict.fromkeys(
        ["<unk>", *LETTERS, *(f"{c}</w>" for c in LETTERS), "'t</w>"]
        + ["".join(pair) for pair in MERGES]
        + ["\n</w>"]
    )
)
TEXT = "The night: it rained.\nThe “niGHt”\tis  naïve, isn't it?!\n\nÉté 你好\n"


def bpe(words="basic"):
    return Gpt1Bpe(TOKENS, MERGES, words=words)


def words_of(tokenizer, text):
    """Words as lists of tokens."""
    ids, starts, *_ = tokenizer.encode(text)
    tokens = [tokenizer.token(i) for i in ids]
    cuts = np.flatnonzero(starts)
    assert len(cuts) == 0 or cuts[0] == 0
    return [list(each) for each in np.split(tokens, cuts[1:])] if tokens else []


def published(text, cut):
    """The tokens of text_utils.py:TextEncoder, `cut` being its spaCy and ftfy."""
    ranks = {pair: rank for rank, pair in enumerate(MERGES)}
    out = []
    for word in cut(text):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            at, merged = 0, []
            while at < len(parts):
                if tuple(parts[at : at + 2]) == best:
                    merged.append("".join(best))
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        # bpe() joins by spaces, spells one word anew, and its caller splits.
        joined = " ".join(parts)
        out += ("\n</w>" if joined == "\n  </w>" else joined).split(" ")
    return [token if token in TOKENS else "<unk>" for token in out]


def test_words_are_bert_s_and_pieces_end_them():
    tokenizer = bpe()
    assert words_of(tokenizer, "The NIGHT, it\nrained") == [
        ["the</w>"],
        ["night</w>"],
        [",</w>"],
        ["it</w>"],
        ["ra", "i", "n", "e", "d</w>"],
    ]
    assert words_of(tokenizer, "isn't") == [["i", "s", "n</w>"], ["'</w>"], ["t</w>"]]
    assert words_of(tokenizer, "été \t\r\n 夜a你 ") == [
        ["e", "t", "e</w>"],
        ["<unk>"],
        ["a</w>"],
        ["<unk>"],
    ]
    for empty in ("", " ", "\n\n", "\x01"):
        assert words_of(tokenizer, empty) == []
    assert tokenizer.decode(tokenizer.encode("The night!").ids) == "the night !"


def test_ids_do_not_depend_on_how_texts_come():
    tokenizer = bpe()
    flat = tokenizer.encode_flat([TEXT, "", TEXT[:9]])
    alone = [bpe().encode(text).ids for text in (TEXT, "", TEXT[:9])]
    np.testing.assert_array_equal(flat.ids, np.concatenate(alone))
    assert flat.counts.tolist() == [len(each) for each in alone]


def test_unknown_is_0_and_a_line_end_ends_a_document():
    tokenizer = bpe()
    assert tokenizer.id("<unk>") == 0 and tokenizer.special is None
    assert tokenizer.token(tokenizer.end_of_document) == "\n</w>"
    with_end = Gpt1Bpe((*TOKENS, "<|endoftext|>"), MERGES)
    assert with_end.end_of_document == len(TOKENS)
    with pytest.raises(UserError, match="has an entry <unk>"):
        Gpt1Bpe(TOKENS[1:], MERGES)


@pytest.mark.parametrize("words", ["basic", "spacy"])
def test_how_words_are_cut_is_saved_and_never_changed(tmp_path, words):
    tokenizer = bpe(words)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, Gpt1Bpe) and loaded.words == words
    assert (loaded.sha256, loaded.options) == (tokenizer.sha256, {"words": words})
    assert load_tokenizer(tmp_path, words=words).sha256 == tokenizer.sha256
    # Others' clients would cut as "basic" what this file lets them read.
    assert (tmp_path / "tokenizer.json").exists() == (words == "basic")
    other = {"basic": "spacy", "spacy": "basic"}[words]
    assert bpe(other).sha256 != tokenizer.sha256
    with pytest.raises(UserError, match=f"made with --text.words {words}: pass it"):
        load_tokenizer(tmp_path, words=other)


@pytest.mark.parametrize(
    "names",
    [("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")],
)
def test_a_pair_of_files_is_known_by_its_tokens(tmp_path, names):
    ids = {token: i for i, token in enumerate(TOKENS)}
    (tmp_path / names[0]).write_text(json.dumps(ids))
    lines = "".join(f"{a} {b}\n" for a, b in MERGES)
    (tmp_path / names[1]).write_text("#version: 0.2\n" + lines)
    assert load_tokenizer(tmp_path).sha256 == bpe().sha256
    assert load_tokenizer(tmp_path, words="spacy").sha256 == bpe("spacy").sha256


@pytest.mark.parametrize("absent", ["ftfy", "spacy"])
def test_without_ftfy_or_spacy_it_says_what_to_install(monkeypatch, absent):
    for name in ("ftfy", "spacy", "spacy.lang", "spacy.lang.en"):
        stands = object() if name == "ftfy" and absent == "spacy" else None
        monkeypatch.setitem(sys.modules, name, stands)
    with pytest.raises(
        UserError, match=r"needs (ftfy|spacy).*: pip install ftfy spacy"
    ):
        bpe("spacy").encode("Some words.")
    bpe().encode("Some words.")


def test_text_is_standardised_as_published():
    text = " It—was…  dark–ish; (so´s) \u00a0it!!\t\n \n\n[a_b] 1.5:2 ~~x\\y/z| \n"
    want = "It - was... dark - ish ; ( so's ) it !! \n [ a _ b ] 1.5:2 ~~ x \\ y / z |"
    assert standardised(text) == want


def test_published_words_are_spacy_s():
    ftfy = pytest.importorskip("ftfy")
    cut = pytest.importorskip("spacy.lang.en").English().tokenizer

    def words(text):
        fixed = ftfy.fix_text(text)
        return [word.text.lower() for word in cut(standardised(fixed))]

    tokenizer = bpe("spacy")
    for text in (TEXT, "Don't!\n\n\nIt's Mr. T.\n", "a\nb", "\n", "naÃ¯ve -- x"):
        got = [tokenizer.token(i) for i in tokenizer.encode(text).ids]
        assert got == published(text, words), text
    assert "\n</w>" in [tokenizer.token(i) for i in tokenizer.encode(TEXT).ids]


def test_a_corpus_of_gpt_1_s(tmp_path):
    bpe().save(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text(TEXT)
    config = RunConfig(
        model=gpt1(vocab_size=len(TOKENS)),
        text=TextConfig(tokenizer="gpt1_bpe", verbatim=True),
    )
    directory, tokenizer = str(tmp_path / "corpus"), str(tmp_path / "tokenizer")
    source = str(tmp_path / "a.txt")
    with pytest.raises(UserError, match="not learnt here: pass --tokenizer"):
        prepare(config, [source], directory)
    with pytest.raises(UserError, match="not learnt here"):
        train_tokenizer(["text"], TextConfig(tokenizer="gpt1_bpe"), 500)
    manifest = prepare(config, [source], directory, tokenizer=tokenizer)
    assert manifest.documents == 2 and manifest.tokenizer_kind == "gpt1_bpe"
    assert manifest.end_of_document == TOKENS.index("\n</w>")
    (note,) = manifest.notes
    assert "22.7% of the words are unknown to the vocabulary" in note
    corpus = open_corpus(directory)
    tokens = corpus.read(np.array([0]), corpus.num_tokens)[0][0]
    first, second = (each + "\n" for each in TEXT.rstrip("\n").split("\n\n"))
    assert tokens.tolist() == [
        *bpe().encode(first).ids,
        corpus.end_of_document,
        *bpe().encode(second).ids,
        corpus.end_of_document,
    ]
