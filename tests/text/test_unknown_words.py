"""A text that is mostly of words which the vocabulary lacks is noted, by every verb."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from exported import CONFIGS, export, tokenizer_of

from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks.classes import Classes
from jaxlm.text.tokenizers.words import MARKS, WordVocab
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import Note

CHINESE = "哈尔滨是黑龙江的省会"


def noted(tokenizer, text: str) -> str:
    """What is said of a text, "" if nothing."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_unknown(tokenizer, counted(tokenizer, tokenizer.encode_flat([text]).ids))
    return "".join(str(each.message) for each in found)


def test_each_vocabulary_by_its_own_unknown_token():
    bert, gpt1, gpt2 = (tokenizer_of(CONFIGS[n]) for n in ("bert", "gpt1", "gpt2"))
    assert noted(bert, CHINESE).startswith("100% of 10 tokens are [UNK]")
    assert "are <unk>" in noted(gpt1, CHINESE)
    assert not noted(gpt2, CHINESE)  # bytes are never unknown
    words = WordVocab((*MARKS, "the", "cat"))
    assert noted(words, "der Kater the").startswith("67% of 3 tokens are <UNK>")
    assert not noted(WordVocab(MARKS), "der Kater")  # it knows no word at all
    for tokenizer in (bert, gpt1, words):
        assert not noted(tokenizer, "the cat")
        assert not noted(tokenizer, "")


def test_special_tokens_are_no_words():
    bert = tokenizer_of(CONFIGS["bert"])
    unknown, mask = bert.special.unknown, bert.special.mask
    with pytest.warns(Note, match="100% of 1 tokens"):
        warn_unknown(bert, counted(bert, np.array([mask, mask, mask, unknown])))


def test_files_of_tasks_are_looked_at(tmp_path):
    (tmp_path / "x.tsv").write_text(f"sentence\tlabel\n{CHINESE}\ta\n", "utf-8")
    task = Classes(
        FinetuneConfig(
            task=TaskConfig(labels=("a", "b")), model=CONFIGS["bert"], length=40
        ),
        tokenizer_of(CONFIGS["bert"]),
    )
    with pytest.warns(Note, match=r"100% of 10 tokens are \[UNK\]"):
        task.open(str(tmp_path / "x.tsv"), True)


def test_the_command_line_prints_one_line(tmp_path, capsys):
    export(tmp_path / "m", "bert")
    assert main(["fill", str(tmp_path / "m"), f"{CHINESE}[MASK]"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("[MASK] 1:") and error.count("\n") == 1
    assert error.startswith("jaxlm: 100% of 10 tokens are [UNK]")
    assert main(["fill", str(tmp_path / "m"), "\udcff [MASK]"]) == 2
    assert r"half a character, '\udcff', at 0" in capsys.readouterr().err
