"""A vocabulary of words: counted, cut, spelled; other words keep their spelling."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxlm.config import RunConfig, TextConfig, elmo
from jaxlm.text import languages, units
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.text.tokenizers import load_tokenizer, train_tokenizer
from jaxlm.text.tokenizers.words import MARKS, WordVocab
from jaxlm.types import UserError

TEXT = ["The cat sat, the cat ran.", "猫在家。 A cat!", ""]


def trained(texts=TEXT, vocab_size=8, **options):
    return train_tokenizer(
        texts, TextConfig(tokenizer="words", lowercase=False, **options), vocab_size
    )


def test_words_stand_in_falling_frequency():
    words = "The cat sat , the cat ran . 猫 在 家 。 A cat !".split()  # noqa: SIM905
    counts = Counter(words)
    order = sorted(counts, key=lambda w: (-counts[w], w))
    assert trained(vocab_size=3 + len(order)).tokens == (*MARKS, *order)
    assert trained(vocab_size=8).tokens == (*MARKS, *order)[:8]


def test_sentences_have_boundaries_and_oov_words_their_spelling():
    tokenizer = trained(["cat cat cat the the sat"], vocab_size=5)
    ids, starts, counts, oov_words = tokenizer.encode_flat(
        ["sat the cat", "", "cat Ω sat"]
    )
    assert ids.tolist() == [0, 5, 4, 3, 1, 0, 3, 6, 5, 1]
    assert counts.tolist() == [5, 0, 5] and starts.all()
    assert oov_words == ("sat", "Ω")
    # Numbers are those of the call: another one begins anew.
    assert tokenizer.encode_flat(["Ω"]).oov_words == ("Ω",)
    assert tokenizer.encode_flat(["Ω"]).ids.tolist() == [0, 5, 1]
    assert tokenizer.decode([0, 3, 4, 77, 1]) == "<S> cat the <UNK> </S>"
    assert tokenizer.cut("The cat, 猫们!") == ["The", "cat", ",", "猫", "们", "!"]


def test_a_word_that_is_spelled_like_a_mark_is_a_word():
    tokenizer = trained(["<S> a a b"], vocab_size=5, words="space")
    assert tokenizer.tokens == (*MARKS, "a", "b")
    assert tokenizer.encode_flat(["a <S> b"]).ids.tolist() == [0, 3, 5, 4, 1]


def test_text_that_is_cut_already_is_cut_at_white_space():
    tokenizer = trained(["can't stop . can't"], vocab_size=6, words="space")
    assert tokenizer.tokens[3] == "can't"
    assert tokenizer.cut("can't  u.s. \x00x") == ["can't", "u.s.", "\x00x"]
    got = tokenizer.encode_flat(["can't stop"]).ids.tolist()
    assert got == [0, 3, tokenizer.id("stop"), 1]


def test_a_very_long_word_is_kept_by_its_beginning():
    found = trained().encode_flat(["x" * 10_000 + " cat"])
    assert found.oov_words == ("x" * 200,)


def test_saved_and_loaded(tmp_path):
    tokenizer = trained()
    tokenizer.save(tmp_path / "own")
    again = load_tokenizer(tmp_path / "own")
    assert isinstance(again, WordVocab) and again.sha256 == tokenizer.sha256
    # As released: a file of words, with a line that is none.
    path = tmp_path / "vocab.txt"
    path.write_text("<S>\n</S>\n<UNK>\nthe\n!!!MAXTERMID\ncat\n")
    assert load_tokenizer(path).tokens == ("<S>", "</S>", "<UNK>", "the", "cat")
    with pytest.raises(UserError, match="begins with <S> </S> <UNK>, not a b"):
        WordVocab(["a", "b"])


def test_all_of_the_text_is_counted(tmp_path, monkeypatch):
    """Pieces are learnt from a sample; a word that comes late is still counted."""
    monkeypatch.setattr(languages, "SAMPLE", 100)
    text = "\n\n".join([f"a{n} b{n}." for n in range(200)] + ["rare " * 50])
    (tmp_path / "t.txt").write_text(text)
    directory = str(tmp_path / "c")
    prepare(
        config_of(5),
        [str(tmp_path / "t.txt")],
        directory,
        options=ReadOptions(sentences="lines"),
    )
    assert open_corpus(directory).tokenizer.tokens[3:] == (".", "rare")


def test_no_text_and_no_room():
    with pytest.raises(UserError, match="no text to learn"):
        trained([""])
    with pytest.raises(UserError, match="below 4"):
        trained(vocab_size=3)


def config_of(vocab_size):
    return RunConfig(
        model=elmo("tiny", vocab_size=vocab_size),
        text=TextConfig(tokenizer="words", lowercase=False),
    )


def content(directory: Path) -> dict:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_corpus_numbers_oov_words_alike_however_it_is_made(tmp_path, monkeypatch):
    """By one process, by two, and by one that was stopped after each unit."""
    monkeypatch.setattr(units, "BLOCK", 2000)
    monkeypatch.setattr(units, "UNIT", 6000)
    chance = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bcdfg" for b in range(200)]
    text = "\n\n".join(" ".join(chance.choice(words, 30)) + "." for _ in range(200))
    source = tmp_path / "text.txt"
    source.write_text(text)

    def made(name, processes=1):
        path = tmp_path / name
        prepare(config_of(50), [str(source)], str(path), processes=processes)
        return content(path)

    whole = made("whole")
    assert made("two", processes=2) == whole

    class StoppedError(Exception):
        pass

    save = units.save

    def stopping(*unit):
        save(*unit)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(units, "save", stopping)
        for _ in range(3):
            with pytest.raises(StoppedError):
                made("stopped")
    assert made("stopped") == whole

    corpus = open_corpus(str(tmp_path / "whole"))
    assert corpus.manifest.boundaries == (0, 1)
    assert corpus.manifest.oov_words == len(corpus.types) - 50 > 100
    tokens = corpus.read(np.zeros(1, np.int64), corpus.num_tokens)[0][0]
    spelled = " ".join(corpus.types[i] for i in tokens)
    want = " ".join(
        "<S> " + " ".join(each.replace(".", " .").split()) + " </S>"
        for each in text.split("\n\n")
    )
    assert spelled == want
