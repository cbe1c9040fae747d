"""The models that are in the package: what they fill, and what they weigh."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from roads import mistake

import jaxlm
from jaxlm.cli import main
from jaxlm.files import SHIPPED

# What the README and the guides show: a blank, and the words expected among the first.
BLANKS = (
    ("She was very [MASK] to see him.", {"glad"}, 1),
    ("It was ten o' [MASK] when he came home.", {"clock"}, 1),
    ("God [MASK] you, my child!", {"bless"}, 1),
    ("He shook his [MASK] and said nothing.", {"head"}, 1),
    ("It was a very fine [MASK].", {"man", "woman", "day"}, 1),
    ("Once upon a [MASK] there was a king.", {"time"}, 2),
    ("I beg your [MASK], sir.", {"pardon"}, 5),
)


@pytest.fixture(scope="module")
def novels():
    return jaxlm.load("shipped:novels")


@pytest.mark.parametrize("text, words, rank", BLANKS)
def test_the_encoder_fills_blanks_sensibly(novels, text, words, rank):
    (guesses,) = novels.fill(text, rank)
    assert words & {each.token for each in guesses}, guesses


def test_the_decoder_writes_words_of_its_language(novels):
    """Without chance; the encoder knows all of its words."""
    model = jaxlm.load("shipped:novels-gpt")
    (found,) = model.generate(["She was very glad to"], max_tokens=24, temperature=0.0)
    words = re.findall("[a-z]+", found.text.lower())
    assert len(words) > 12 and set(words) <= set(novels.tokenizer.tokens), found.text
    # In nats; without order, the words are equally likely.
    likely = "He put his hand upon her shoulder, and looked into her eyes."
    mixed = " ".join(reversed(likely.split()))
    assert model.score(likely).total > model.score(mixed).total + 20


def test_both_weigh_at_most_eight_megabytes():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {"model.safetensors", "README.md"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 8e6


def test_a_shipped_model_is_named_wherever_a_model_is(tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("It was a truth.\nHe came.\n")
    out = tmp_path / "vectors.npz"
    words = ["--text", str(tmp_path / "lines.txt"), "--out", str(out)]
    assert main(["embed", "shipped:novels", *words]) == 0 and out.exists()
    assert main(["show", "shipped:novels"]) == 0
    again = ["--to", "hf", "--dtype", "float16", "--out", str(tmp_path / "m")]
    assert main(["export", "shipped:novels", *again]) == 0
    name = "model.safetensors"
    assert (tmp_path / "m" / name).read_bytes() == (
        SHIPPED / "novels" / name
    ).read_bytes()
    capsys.readouterr()
    assert main(["evaluate", "shipped:novels", *words[:2], "--batch", "2"]) == 0
    assert "MLM accuracy" in capsys.readouterr().out


def test_training_starts_from_a_shipped_model(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("He came.\nShe went.\n\n" * 40)
    words = ["--text", str(tmp_path / "a.txt"), "--workdir", str(tmp_path / "r")]
    words += ["--tokenizer", "shipped:novels", "--init", "shipped:novels"]
    words += ["--steps", "1", "--batch", "8", "--eval_every", "0", "--processes", "1"]
    assert main(["pretrain", "bert_modern_tiny", *words]) == 0
    assert "shipped:novels" in capsys.readouterr().out  # how much of it was taken


def test_a_verb_for_runs_says_what_a_shipped_model_lacks(capsys):
    assert main(["probe", "weights", "shipped:novels"]) == 2
    assert "shipped:novels has no evaluated mix of layers" in capsys.readouterr().err


def test_a_wrong_name_is_answered_with_the_right_ones(tmp_path, monkeypatch, capsys):
    said = mistake(capsys, "fill", "shipped:austen", "A [MASK].")
    assert "there are novels" in said
    monkeypatch.chdir(tmp_path)
    text = ["--text", "shipped:austen", "--workdir", "shipped:novels"]
    assert "another --workdir" in mistake(capsys, "pretrain", "bert_tiny", *text)
    out = ["export", "shipped:novels", "--to", "hf", "--out", "shipped:mine"]
    assert "another --out" in mistake(capsys, *out)
    assert not list(Path().iterdir())
