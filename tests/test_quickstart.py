"""What a new user sees first: the model of `tools/quickstart`."""

import json

import pytest

import jaxlm
from jaxlm.cli import main

# A blank, and the rank by which one of these words comes.
BLANKS = (
    ("She was very [MASK] to see him.", {"glad", "happy"}, 5),
    ("I am very much [MASK] to you.", {"obliged"}, 5),
    ("It was a very fine [MASK].", {"man", "woman", "day"}, 5),
    ("Mr. [MASK] was not at home.", {"knightley", "weston", "darcy", "elton"}, 3),
    ('"My dear Miss [MASK]," cried she.', {"woodhouse", "crawford", "fairfax"}, 3),
)


@pytest.mark.long
def test_the_quickstart_fills_blanks_sensibly(tmp_path):
    run = tmp_path / "run"
    argv = ["bert_modern_tiny", "--text", "shipped:austen", "--workdir", str(run)]
    argv += ["--holdout", "0.1", "--model.vocab_size", "4096", "--steps", "1000"]
    argv += ["--eval_every", "1000", "--log.tensorboard", "false"]
    assert main(["pretrain", *argv]) == 0
    *_, line = (run / "metrics.jsonl").read_text().splitlines()
    assert 3.7 < json.loads(line)["eval_mlm_loss"] < 3.95
    model = jaxlm.load(run)
    for text, words, rank in BLANKS:
        (guesses,) = model.fill(text, rank)
        assert words & {each.token for each in guesses}, (text, guesses)
