"""Words and questions as other programs write them: read as meant, or refused."""

import json

import numpy as np
import pytest
from exported import CONFIGS, tokenizer_of

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks.questions import Question, read_questions
from jaxlm.tasks.spans import Spans
from jaxlm.tasks.tags import Tags, read_sentences
from jaxlm.tasks.task import File
from jaxlm.text.spans.annotated import read_conll
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.types import UserError


def test_columns_are_cut_at_spaces_and_tabs_alone(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("Er  O\r\n10\u00a0000 O\r\n\u00a0 O\r\nEuro\u2028 B-M \t\r\n")
    [found] = read_sentences(str(path), labelled=True)
    assert found.words == ("Er", "10\u00a0000", "\u00a0", "Euro\u2028")
    assert found.tags == ("O", "O", "O", "B-M")
    assert read_conll(["10\u00a0000 B-M", "Euro I-M\r"]).text == "10\u00a0000 Euro"


def test_comments_are_no_words_and_a_hash_is_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("# sent_id = 1\n# text = a b\na\tO\n# newdoc\n# newpar\n#\tB-X\n")
    found = read_sentences(str(path), labelled=True)
    assert [each.words for each in found] == [("a",), ("#",)]
    assert read_conll(["# text = a b", "a O", "# B-X"]).text == "a#"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1\ta\tO\n2\tb\tO\n\n1-2\tc\tO\n1\td\tO\n", "first column counts the words"),
        ("word\ttag\nthe\tO\n", "line 1 looks like a header"),
        ("a\tO\n\tO\n", "line 2: an empty word"),
        ('{"tokens": ["a"], "ner_tags": [0]}\n', "is JSON: tags stand in columns"),
        ("a\x02\x02b\tO\x02O\x02O\n", "line 1: an empty word"),
    ],
)
def test_words_that_are_none_are_told(tmp_path, content, said):
    path = tmp_path / "x.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_sentences(str(path), labelled=True)
    with pytest.raises(ValueError, match="no column of tags"):
        read_conll(["\tO"])


def tags_of(metric, sentences):
    config = FinetuneConfig(task=TaskConfig(kind="tokens", metric=metric))
    return Tags(config, tokenizer_of(CONFIGS["gpt2"])).labels_of(sentences, "x")


def test_a_file_of_one_tag_teaches_nothing(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a O\nb O\n")
    found = read_sentences(str(path), labelled=True)
    for metric in ("entity_f1", "accuracy"):
        with pytest.raises(UserError, match="has one tag only: 'O'"):
            tags_of(metric, found)
    path.write_text("a B-PER\nb I-Per\n")
    found = read_sentences(str(path), labelled=True)
    with pytest.raises(UserError, match="'PER' and 'Per' would be two"):
        tags_of("entity_f1", found)


# Questions.

CONTEXT = "The cat sat in Paris."
FLAT = {
    "id": "1",
    "title": "t",
    "context": CONTEXT,
    "question": "where?",
    "answers": {"text": ["Paris"], "answer_start": [15]},
}


def squad(**question):
    asked = {"id": "1", "question": "where?", **question}
    return {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [asked]}]}]}


def test_all_forms_of_questions_say_the_same(tmp_path):
    path = tmp_path / "x.json"
    answers = [{"text": "Paris", "answer_start": 15}]
    none = {**FLAT, "id": "2", "answers": {"text": [], "answer_start": []}}
    for content in (
        json.dumps(FLAT),
        json.dumps(FLAT) + "\r\n\r\n" + json.dumps(none) + "\r\n",
        json.dumps([FLAT, none]),
        json.dumps({"version": 2, "data": [FLAT]}, indent=1),
        json.dumps(squad(answers=answers)),
        json.dumps(squad(answers=FLAT["answers"]), indent=1),
        json.dumps(squad(answers=answers, is_impossible="false")),
    ):
        path.write_text("\ufeff" + content)
        first, *more = read_questions(str(path), labelled=True)
        want = ("1", "where?", CONTEXT, (("Paris", 15),))
        assert first[:4] == want, content
        assert [(each.id, each.answers) for each in more] in ([], [("2", ())])
    path.write_text(json.dumps(squad(answers=answers, is_impossible="True")))
    assert read_questions(str(path), labelled=True)[0].answers == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (squad(answers=[], is_impossible="no"), "question 1: is_impossible is 'no', n"),
        (squad(answers=[], is_impossible=1), "question 1: is_impossible is '1', n"),
        ([FLAT, {**FLAT, "id": "2", "question": ["why"]}], "question 2: question is a"),
        ({**FLAT, "answers": {"text": ["a"], "answer_start": []}}, "after 0 questions"),
        ({**FLAT, "answers": {"text": ["a"], "answer_start": [1.5]}}, "ValueError"),
        ({**FLAT, "answers": "Paris"}, "is not in SQuAD's form"),
    ],
)
def test_a_question_that_is_none_is_named(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_questions(str(path), labelled=True)
    path.write_text(f"{json.dumps(FLAT)}\n{json.dumps(FLAT)}\n{{\n")
    with pytest.raises(UserError, match=r"x\.json, line 3: no JSON"):
        read_questions(str(path), labelled=True)


def test_invisible_characters_stay_out_of_answers(model_directory):
    tokenizer = load_tokenizer(model_directory)
    context = "the film is \u200bwarm\u2060\u200f and \ufeffdull"
    task = TaskConfig(kind="spans", metric="f1")
    task = Spans(FinetuneConfig(task=task, length=32), tokenizer)
    asked = [
        Question("1", "the", context, (("\u200bwarm\u2060\u200f", 12),), ""),
        Question("2", "the", context, (), ""),
    ]
    rows = task.encode(asked, True)
    assert rows.notes == ("1 question without an answer: see --task.metric best_f1",)
    scores = [np.zeros((len(ids), 2), np.float32) for ids in rows.tokens]
    for score, label in zip(scores, rows.labels, strict=True):
        score[label[0], 0] = score[label[1], 1] = 5
    texts, _ = task.answers(File(asked, rows), scores)
    assert texts[0] == "warm"
