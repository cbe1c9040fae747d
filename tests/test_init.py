"""`--init` takes a model of the corpus's own vocabulary, or is refused."""

from __future__ import annotations

import dataclasses

import pytest
from exported import CONFIGS, export, tokenizer_of
from roads import mistake

from jaxlm.cli import main
from jaxlm.open import check_vocabulary, other_settings, pretrained
from jaxlm.text.tokenizers import WordPiece
from jaxlm.types import UserError

FLAGS = """
    --model.vocab_size 150 --model.num_layers 2 --model.num_heads 2 --model.d_model 16
    --model.d_ff 24 --model.max_length 40 --model.nsp false --length 16 --batch 8
    --predictions 3 --steps 1 --eval_every 0 --optim.warmup 0 --log.tensorboard false
"""
TOKENS = tokenizer_of(CONFIGS["bert"]).tokens


def changed(**words: str) -> WordPiece:
    """The vocabulary of the exported model with other words: i12="dog"."""
    tokens = list(TOKENS)
    for place, word in words.items():
        tokens[int(place[1:])] = word
    return WordPiece(tokens, lowercase=True)


@pytest.fixture
def model(tmp_path) -> str:
    export(tmp_path / "model", "bert without pairs")
    return str(tmp_path / "model")


def test_the_same_vocabulary_needs_no_word(model):
    assert check_vocabulary(model, tokenizer_of(CONFIGS["bert"]), other=False) == []


def test_settings_that_no_shape_shows_are_said_if_they_differ(tmp_path):
    mine = CONFIGS["modernbert"]
    export(tmp_path / "model", "modernbert")
    assert other_settings(f"{tmp_path}/model", mine) == []
    other = dataclasses.replace(mine, rope_base=99.0, window=0, dropout=0.5)
    (note,) = other_settings(f"{tmp_path}/model", other)
    assert f"model.rope_base = {mine.rope_base} there and 99.0 here" in note
    assert f"model.window = {mine.window} there and 0 here" in note
    assert "local_rope_base" not in note and "dropout" not in note


def test_an_order_of_its_own_is_another_vocabulary(model):
    a, b = TOKENS[20], TOKENS[21]
    swapped = changed(i20=b, i21=a)
    with pytest.raises(UserError) as error:
        check_vocabulary(model, swapped, other=False)
    said = str(error.value)
    assert tokenizer_of(CONFIGS["bert"]).sha256[:12] in said
    assert swapped.sha256[:12] in said and f"entry 20, {a!r} there and {b!r}" in said
    assert f"--tokenizer {model}" in said and "--other_vocabulary" in said
    (note,) = check_vocabulary(model, swapped, other=True)
    assert "2 of 150 entries are other words" in note


def test_words_may_take_unused_places_and_are_counted(model):
    free = [i for i, token in enumerate(TOKENS) if token.startswith("[unused")]
    (note,) = check_vocabulary(model, changed(**{f"i{free[0]}": "dog"}), other=False)
    assert "the words are equal, their [unused] places" in note


def test_a_vocabulary_that_grew_is_refused(model):
    grown = WordPiece((*TOKENS, "dog"), lowercase=True)
    with pytest.raises(UserError, match="entry 150, None there and 'dog' here"):
        check_vocabulary(model, grown, other=False)


def test_equal_words_that_are_cut_otherwise_are_said(model):
    cased = WordPiece(TOKENS, lowercase=False)
    (note,) = check_vocabulary(model, cased, other=False)
    assert "the words are equal" in note and cased.sha256[:12] in note


def test_a_tokenizer_beside_that_of_a_source_is_told(model, tmp_path, capsys):
    swapped = changed(i20=TOKENS[21], i21=TOKENS[20])
    swapped.save(tmp_path / "words")
    words = ["import", model, "--out", f"{tmp_path}/in", "--tokenizer"]
    assert main([*words, f"{tmp_path}/words"]) == 0
    said = capsys.readouterr().err
    assert "--tokenizer has another vocabulary" in said and swapped.sha256[:12] in said
    assert main([*words, model]) == 0
    assert "another vocabulary" not in capsys.readouterr().err


@pytest.mark.long
def test_pretraining_goes_on_with_another_vocabulary_by_wish_alone(
    model, tmp_path, capsys
):
    """From a model directory, then from a run."""
    (tmp_path / "text.txt").write_text("It was out of the house.\n\nIt was she.\n" * 9)
    tokens = list(TOKENS)
    tokens[20:30] = tokens[29:19:-1]
    for name, entries in (("one", TOKENS), ("two", tokens)):
        (tmp_path / f"{name}.txt").write_text("\n".join(entries) + "\n")
        text = ["--text", f"{tmp_path}/text.txt", "--corpus", f"{tmp_path}/{name}"]
        text += ["--tokenizer", f"{tmp_path}/{name}.txt", "--processes", "1"]
        words = [*text, "--holdout", "0", *FLAGS.split()[:2]]
        assert main(["prepare", "bert_tiny", *words]) == 0

    def pretrain(corpus: str, run: str, *more: str) -> list[str]:
        where = ["--corpus", f"{tmp_path}/{corpus}", "--workdir", f"{tmp_path}/{run}"]
        return ["pretrain", "bert_tiny", *where, *FLAGS.split(), *more]

    # A model that does not fit leaves the workdir free.
    wide = pretrain("one", "run", "--init", model, "--model.d_ff", "48")
    assert main(wide) == 2 and "[2, 16, 48]" in capsys.readouterr().err
    run = str(tmp_path / "run")
    for init in (model, run):
        said = mistake(capsys, *pretrain("two", "refused", "--init", init))
        assert "10 of 150 entries" in said
        assert not (tmp_path / "refused" / "config.json").exists()
        if init == model:
            assert main(pretrain("one", "run", "--init", model)) == 0
    assert f"--tokenizer {run}/tokenizer" in said
    other = pretrain("two", "other", "--init", run, "--other_vocabulary")
    assert main(other) == 0 and "10 of 150 entries" in capsys.readouterr().err
    assert main(other) == 0  # it needs --init no more
    assert "--init" in mistake(capsys, *pretrain("two", "new", "--other_vocabulary"))
    changed(i20=TOKENS[21], i21=TOKENS[20]).save(f"{run}/tokenizer")
    with pytest.raises(UserError, match="by another run: tokenizer_sha256 was"):
        pretrained(run)  # as fine-tuning does, which takes the run's tokenizer
