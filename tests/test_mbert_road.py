"""Multilingual BERT by the command line: from texts to metrics."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from roads import digest, mistake

from jaxlm.cli import main
from jaxlm.text.corpus import open_corpus

TINY = """
    --model.vocab_size 200 --model.num_heads 2 --model.d_model 16 --model.d_ff 32
    --model.dropout 0.1 --batch 64 --length 32 --predictions 8 --log.tensorboard false
    --log.batches true --mesh.data 1 --steps 8 --save_every 4 --eval_every 8
    --log.every 1 --optim.warmup 1
"""
DECODER = """
    --model.vocab_size 400 --model.num_layers 1 --model.num_heads 2 --model.d_model 16
    --model.d_ff 32 --batch 32 --length 32 --steps 3 --log.every 1 --eval_every 3
    --log.tensorboard false --mesh.data 1 --holdout 0.1
"""
WORDS = {
    "en": ("the cat", "saw a dog", "in March", "and slept", "near London"),
    "fr": ("le chat", "vit un chien", "en mars", "et dormit", "près de Paris"),
    "zh": ("那只猫", "看见了狗", "在三月", "睡着了", "在北京"),
}
COUNTS = {"en": 200, "zh": 60, "fr": 12}  # documents


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A folder of texts and a function from a run's name to its arguments."""
    folder, chance = tmp_path_factory.mktemp("mbert"), random.Random(0)
    for language, count in COUNTS.items():
        (folder / language).mkdir()
        stop, space = ("。", "") if language == "zh" else (". ", " ")
        for half in range(2):
            documents = [
                "".join(
                    space.join(chance.choices(WORDS[language], k=4)) + stop
                    for _ in range(8)
                )
                for _ in range(count // 2)
            ]
            (folder / language / f"{half}.txt").write_text("\n\n".join(documents))
    text = [f"{language}:{folder}/{language}/*.txt" for language in COUNTS]
    common = ["mbert_tiny", "--text", *text, "--holdout", "0.1", "--processes", "1"]
    common += ["--smoothing", "0.5", "--corpus", f"{folder}/corpus", *TINY.split()]

    def words(run, *more):
        return [*common, "--workdir", f"{folder}/{run}", *more]

    assert main(["pretrain", *words("run")]) == 0
    return folder, words


def lines(folder, run):
    text = (folder / run / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_metrics_tell_the_shares_of_the_languages(road):
    folder, _ = road
    sizes = open_corpus(str(folder / "corpus")).language_tokens(0)
    want = np.sqrt(sizes) / np.sqrt(sizes).sum()
    for language, share in zip(COUNTS, want, strict=True):
        got = np.mean([each[f"{language}_rows"] for each in lines(folder, "run")])
        # 8 batches of 64 rows, five standard deviations.
        assert abs(got - share) < 5 * np.sqrt(share * (1 - share) / 512)


def test_resume_is_bitwise_and_reads_the_same_rows(road, capsys):
    folder, words = road
    assert main(["pretrain", *words("run")]) == 0
    whole = digest(capsys)
    assert main(["pretrain", *words("parts", "--stop", "3")]) == 0
    capsys.readouterr()
    assert main(["pretrain", *words("parts")]) == 0
    assert digest(capsys) == whole
    names = [f"{language}_rows" for language in COUNTS]
    both = [
        [[each[name] for name in ("batch_sha256", *names)] for each in lines(folder, r)]
        for r in ("run", "parts")
    ]
    assert both[0] == both[1]


def test_show_and_evaluate_speak_of_languages(road, capsys):
    folder, _ = road
    capsys.readouterr()
    assert main(["show", f"{folder}/corpus", "--config", "mbert_tiny"]) == 0
    said = capsys.readouterr().out
    assert "rows" in said and "at smoothing 0.7" in said
    assert [line.split()[0] for line in said.splitlines()[1:4]] == list(COUNTS)
    text = [f"fr:{folder}/fr/0.txt", f"en:{folder}/en/0.txt"]
    assert main(["evaluate", f"{folder}/run", "--text", *text]) == 0
    assert "MLM accuracy" in capsys.readouterr().out


@pytest.mark.long
def test_a_decoder_mixes_languages_too(road, capsys):
    folder, _ = road
    text = [f"{language}:{folder}/{language}/*.txt" for language in COUNTS]
    words = ["gpt2_tiny", "--text", *text, "--workdir", f"{folder}/gpt"]
    assert main(["pretrain", *words, *DECODER.split()]) == 0
    for each in lines(folder, "gpt"):
        assert sum(each[f"{language}_rows"] for language in COUNTS) == pytest.approx(1)


def test_mistakes(road, capsys, tmp_path):
    folder, words = road
    new = ["--corpus", str(tmp_path / "c")]
    for text, said in (
        ([f"qq:{folder}/en/*.txt"], "does not know the language 'qq'"),
        ([f"en:{folder}/en/*.txt", f"{folder}/fr/*.txt"], "label all of the text"),
    ):
        args = ["prepare", "mbert_tiny", "--text", *text, *new]
        assert said in mistake(capsys, *args)
    assert "is not in (0, 1]" in mistake(
        capsys, "pretrain", *words("bad", "--smoothing", "1.5")
    )
    assert "smoothing is 0.9, was 0.5" in mistake(
        capsys, "pretrain", *words("bad", "--smoothing", "0.9")
    )
    elmo = ["pretrain", "elmo_tiny", "--text", f"en:{folder}/en/*.txt"]
    elmo += [f"fr:{folder}/fr/*.txt", "--workdir", str(tmp_path / "w"), *new]
    assert "an ELMo has one language" in mistake(capsys, *elmo)
