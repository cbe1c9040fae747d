"""Dialogues: a record's turns, who speaks, and what the corpus keeps of both."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxlm.config import RunConfig, TextConfig, bert
from jaxlm.text.corpus import open_corpus
from jaxlm.text.documents import Fragment
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.text.sources import Source
from jaxlm.text.texts import texts_of
from jaxlm.types import Mark, UserError

QUESTIONS = ["你好吗？", "我很好。你呢？", "我也很好。"]


def said(*turns):
    """Turns of a named speaker each."""
    return [{"speaker": who, "text": text} for who, text in turns]


def read(record):
    data = json.dumps(record).encode()
    source = Source("d.parquet", "parquet", ("d.parquet",), field="turns")
    return texts_of(Fragment(source, 7, True, data, 0), Recipe(dialogues=True))


def test_turns_without_speakers_alternate():
    found = read({"turns": QUESTIONS})
    assert found.texts == QUESTIONS and found.second == [False, True, False]


def test_whoever_speaks_first_is_the_first_speaker():
    turns = said(("Z", "a"), ("Z", " b "), ("A", "c"), ("A", " \n"), ("Z", "d"))
    found = read({"turns": turns})
    assert found.texts == ["a", "b", "c", "d"]
    assert found.second == [False, False, True, False]


@pytest.mark.parametrize(
    "record, message",
    [
        ({"text": "a"}, 'record 8 has no field "turns": it has text'),
        ({"turns": []}, 'no "turns"'),
        ({"turns": ["a", " "]}, "has 1 turns: a dialogue has two or more"),
        ({"turns": ["a", 1]}, "neither a string nor"),
        ({"turns": ["a", {"speaker": "b"}]}, "neither a string nor"),
        ({"turns": ["a", *said(("b", "c"))]}, "speakers of some turns only"),
        ({"turns": said(("a", "x"), ("b", "y"), ("c", "z"))}, "has 3 speakers"),
    ],
)
def test_what_is_no_dialogue(record, message):
    with pytest.raises(UserError, match=message):
        read(record)


def corpus_of(tmp_path, name, records, processes=1, **options):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    config = RunConfig(
        model=bert("tiny", vocab_size=60),
        text=TextConfig(language="zh", dialogues=True),
    )
    prepare(
        config,
        [str(path)],
        str(tmp_path / name),
        options=ReadOptions(**options),
        processes=processes,
    )
    return open_corpus(str(tmp_path / name))


def test_turns_are_marked(tmp_path):
    turns = said(("q", "你好吗？"), ("q", "好吗？"), ("r", "我很好。你呢？"))
    corpus = corpus_of(tmp_path, "c", [{"turns": turns}, {"turns": QUESTIONS}])
    assert corpus.manifest.recipe.dialogues
    assert corpus.sentences.tolist() == [0, 4, 7, 14, 18, 25]
    assert corpus.documents[:, 0].tolist() == [0, 14]
    _, marks = corpus.read(np.zeros(1, np.int64), corpus.num_tokens)
    assert np.flatnonzero(marks[0] & Mark.SENTENCE).tolist() == [0, 4, 7, 14, 18, 25]
    second = np.flatnonzero(marks[0] & Mark.SPEAKER).tolist()
    assert second == [*range(7, 14), *range(18, 25)]


@pytest.mark.long
def test_any_number_of_processes_writes_the_same(tmp_path):
    records = [{"turns": QUESTIONS[i % 2 :] + QUESTIONS} for i in range(20_000)]
    one = corpus_of(tmp_path, "one", records, spans="rjieba")
    two = corpus_of(tmp_path, "two", records, spans="rjieba", processes=2)
    assert one.sha256 == two.sha256
    _, marks = one.read(np.zeros(1, np.int64), 24)
    assert (marks & Mark.SPEAKER).any() and (marks & Mark.IN_PHRASE).any()


def test_mistakes(tmp_path):
    (tmp_path / "x.txt").write_text("text")
    config = RunConfig(text=TextConfig(dialogues=True))
    with pytest.raises(UserError, match=r'line of .jsonl with "turns".*x.txt'):
        prepare(config, [str(tmp_path / "x.txt")], str(tmp_path / "c"))
    with pytest.raises(UserError, match="leave sentences out"):
        corpus_of(tmp_path, "d", [{"turns": QUESTIONS}], sentences="lines")
    with pytest.raises(UserError, match="for encoders"):
        TextConfig(dialogues=True, verbatim=True)
