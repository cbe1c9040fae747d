"""Notes of a corpus: what a user may not have meant."""

import shutil

import pytest
from text.books import CONFIG

from jaxlm.config import RunConfig, TextConfig
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import UserError


def test_what_may_not_be_meant_is_noted(tmp_path):
    (tmp_path / "a.txt").write_text("One two.\n\nThree four.\n\nFive.\n")
    directory = str(tmp_path / "corpus")
    manifest = prepare(
        CONFIG, [str(tmp_path)], directory, options=ReadOptions(holdout=0.001)
    )
    notes = " ".join(manifest.notes)
    assert "entries of the vocabulary are [unusedN]" in notes
    assert "a document has 1.0 sentences on average" in notes
    assert "0 of 3 documents are held out by --holdout 0.001" in notes
    with pytest.raises(UserError, match=r"holdout = 1\.0 is not in"):
        ReadOptions(holdout=1.0)
    with pytest.raises(UserError, match="processes = 0 must be positive"):
        prepare(CONFIG, [str(tmp_path)], directory, processes=0)


def noted(tmp_path, text, name="a.txt", **how):
    (tmp_path / name).write_text(text)
    directory = str(tmp_path / "corpus")
    config = how.pop("config", CONFIG)
    tokenizer = how.pop("tokenizer", None)
    options = ReadOptions(**how)
    made = prepare(
        config, [str(tmp_path)], directory, options=options, tokenizer=tokenizer
    )
    shutil.rmtree(directory)
    return "\n".join(made.notes)


def test_words_that_the_vocabulary_does_not_know_are_noted(books, tmp_path):
    tokenizer = str(books / "corpus/tokenizer")
    known = (books / "1.txt").read_text()
    assert "unknown" not in noted(tmp_path, known, tokenizer=tokenizer)
    notes = noted(tmp_path, "слово за словом.\n" * 9, tokenizer=tokenizer)
    assert "75.0% of the words are unknown to the vocabulary" in notes


def test_a_language_that_the_text_is_not_in_is_noted(tmp_path):
    chinese, english = "他在北京写字。\n他很好。\n", "He is here.\nHe writes.\n"
    zh = RunConfig(model=CONFIG.model, text=TextConfig(language="zh"))
    said = "of the text in the language {} are Chinese characters: is that its"
    assert said.format("en") in noted(tmp_path, chinese)
    assert "0% " + said.format("zh") in noted(tmp_path, english, config=zh)
    for text, config in ((chinese, zh), (english, CONFIG)):
        assert "in the language" not in noted(tmp_path, text, config=config)


def test_files_without_text_are_noted(tmp_path):
    (tmp_path / "b.txt").write_text(" \n\n")
    (tmp_path / "c.jsonl").write_text("")
    notes = noted(tmp_path, "One two.\nThree.\n")
    assert "2 of 3 sources are empty: " in notes and "c.jsonl" in notes
