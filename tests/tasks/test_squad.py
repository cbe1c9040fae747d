"""Figures of answers by the published rules: cases worked out by hand."""

import json

import numpy as np
import pytest

from jaxlm.tasks.questions import (
    answer_scores,
    best_threshold,
    cmrc_words,
    find_answer,
    normal,
    read_questions,
)
from jaxlm.types import UserError

# truth, answer, EM, F1: articles, punctuation and case go; F1 is of bags of words.
SQUAD = [
    ("The Beatles", "beatles", 1, 1),
    ("the 10th and 11th centuries", "10th and 11th centuries.", 1, 1),
    ("in the 10th century", "10th century", 0, 4 / 5),
    ("John F. Kennedy", "Kennedy John", 0, 4 / 5),
    ("a b b", "b b b", 0, 4 / 5),
    ("Paris", "London", 0, 0),
    ("Paris", "", 0, 0),
    ("U.S.", "US", 1, 1),
]
# truth, answer, EM, F1: ideographs one by one; F1 of the longest common run.
CMRC = [
    ("北京大学", "北京大学", 1, 1),
    ("北京大学", "北京", 0, 2 * 2 / 6),
    ("《北京》大学", "北京大学。", 1, 1),
    ("在北京大学", "北京的大学", 0, 2 * 2 / 10),
    ("Nexon公司", "nexon", 0, 2 * 1 / 4),
    ("1998年7月", "1998年", 0, 2 * 2 / 6),
    ("上海", "北京", 0, 0),
]
# language, truth, answer, and what mlqa_evaluation_v1.py gives for them: articles of a
# language, punctuation of every script, ideographs one by one in a bag.
MLQA = [
    ("de", "der Stadt Bremen", "die Stadt Bremen", 1, 1),
    ("de", "Einem Mann", "mann,", 1, 1),
    ("es", "la Universidad de París", "Universidad de «París»", 1, 1),
    ("vi", "của nhà vua", "nhà vua", 1, 1),
    ("ar", "الملك فيصل", "ملك فيصل", 1, 1),
    ("ar", "في القرن العاشر", "القرن العاشر", 0, 4 / 5),
    ("hi", "महात्मा गांधी।", "गांधी", 0, 2 / 3),
    ("en", "the King’s Road", "Kings Road", 1, 1),
    ("zh", "北京大学", "在北京", 0, 4 / 7),
    ("zh", "《北京》 Nexon 公司", "nexon公司", 0, 6 / 8),
    ("zh", "1998年7月", "1998年", 0, 2 / 3),
]


@pytest.mark.parametrize(("truth", "answer", "exact", "f1"), SQUAD)
def test_squad_s_rules(truth, answer, exact, f1):
    assert answer_scores([truth], answer, "squad") == pytest.approx((exact, f1))


@pytest.mark.parametrize(("truth", "answer", "exact", "f1"), CMRC)
def test_cmrc_s_rules(truth, answer, exact, f1):
    assert answer_scores([truth], answer, "cmrc") == pytest.approx((exact, f1))


@pytest.mark.parametrize(("language", "truth", "answer", "exact", "f1"), MLQA)
def test_mlqa_s_rules(language, truth, answer, exact, f1):
    found = answer_scores([truth], answer, f"mlqa_{language}")
    assert found == pytest.approx((exact, f1))


def test_of_several_answers_the_best_counts_and_of_none_silence():
    assert answer_scores(["Rome", "the city of Rome"], "city of Rome", "squad") == (
        1,
        1,
    )
    assert answer_scores([], "", "squad") == (1, 1)
    assert answer_scores([], "Rome", "squad") == (0, 0)
    # Of "the" nothing is left: the official script takes "" in its place.
    assert answer_scores(["the"], "", "squad") == (1, 1)
    assert normal("  An  Apple, a DAY! ") == "apple day"
    assert cmrc_words("《Nexon》有3.5亿，元") == ["nexon", "有", "3.5", "亿", "元"]


def threshold(values, diffs, answerable, empty):
    return best_threshold(*map(np.array, (values, diffs, answerable, empty)))


def test_the_best_threshold_is_the_official_script_s():
    """Five questions; odds rise from left to right.

    answers      A: right 1    B: none 0→ wrong   C: right .5   D: none   E: right 1
    running      2 → 3         2                  2.5           1.5       2.5
    """
    found = threshold(
        [1.0, 0.0, 0.5, 0.0, 1.0],
        [-4.0, -3.0, -2.0, 1.0, 5.0],
        [True, False, True, False, True],
        [False] * 5,
    )
    assert found == (3 / 5, -4.0)
    # Nothing is answered at all: the threshold stays at 0, as the script's.
    assert threshold([0.0], [1.0], [False], [False]) == (1.0, 0.0)
    # Where odds are negative too, and where some are equal, what a bound does give.
    found = threshold(
        [0.0] * 4, [-3.0, -2.0, -1.0, 1.0], [False] * 3 + [True], [False] * 4
    )
    assert found[0] == 3 / 4 and found[1] < -3
    found = threshold([1.0, 0.0], [0.5, 0.5], [True, False], [False] * 2)
    assert found == (1 / 2, 0.0)
    # An answer that is "" anyhow costs nothing.
    found = threshold(
        [1.0, 0.0, 1.0], [0.0, 1.0, 2.0], [True, False, True], [False, True, False]
    )
    assert found == (1.0, 2.0)


def test_an_answer_is_where_it_is_said_to_be_or_nearest_to_it():
    context = "Rome is Rome, and Rome"
    assert find_answer(context, "Rome", 8) == 8
    assert find_answer(context, "Rome", 9) == 8
    assert find_answer(context, "Rome", 17) == 18
    assert find_answer(context, "Paris", 0) is None
    assert find_answer(context, " ", 4) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[]", "has no questions"),
        ("[7]", "is not in SQuAD's form"),
        ('[{"context_text": null, "qas": [{"query_id": 7, "query_text": "y", '
         '"answers": ["x"]}]}]', "question 7: an empty context"),
        ('{"data": []}', "has no questions"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 7, '
         '"question": " ", "answers": []}]}]}]}', "question 7: an empty question"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 7, '
         '"question": "y"}]}]}]}', "after 0 questions KeyError 'answers'"),
        ('{"data": [{"paragraphs": [{"context": null, "qas": [{"id": 7, '
         '"question": "y", "answers": []}]}]}]}', "question 7: an empty context"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 7, "question": "y",'
         '"answers": [{"text": "", "answer_start": 0}]}]}]}]}', "were taken out"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_questions(str(path), labelled=True)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "questions", "unanswerable", "moved", "lost"),
    [
        ("squad2_half/dev-v2.0.json.xz", 6078, 3168, 0, 0),
        ("xquad/xquad.en.json.xz", 1190, 0, 0, 0),
        ("xquad/xquad.zh.json.xz", 1190, 0, 0, 0),
        ("drcd/DRCD_dev.json.xz", 3524, 0, 0, 0),
    ],
)
def test_real_files_are_read_whole(shared, name, questions, unanswerable, moved, lost):
    found = read_questions(str(shared / name), labelled=True)
    assert len(found) == questions
    assert sum(not each.answers for each in found) == unanswerable
    places = [
        (find_answer(each.context, *each.answers[0]), each.answers[0][1])
        for each in found
        if each.answers
    ]
    assert sum(at is None for at, _ in places) == lost
    assert sum(at is not None and at != stated for at, stated in places) == moved
    assert json.dumps(found[0].context)


def test_an_id_of_two_questions_answers_none(tmp_path):
    path = tmp_path / "x.json"
    asked = {"id": "a", "question": "y", "answers": []}
    paragraph = {"context": "x", "qas": [asked, asked, {**asked, "id": "b"}]}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert len(read_questions(str(path), labelled=True)) == 3
    with pytest.raises(UserError, match="question a: another question has this id"):
        read_questions(str(path), labelled=False)


@pytest.mark.shared
def test_cmrc_s_own_form_has_the_same_questions(shared):
    name = "cmrc2018_dev.json.xz"
    theirs, squad = (
        read_questions(str(shared / "cmrc2018" / form / name), labelled=True)
        for form in ("data", "squad-style-data")
    )
    assert len(theirs) == 3219
    assert [each.id for each in theirs] == [each.id for each in squad]
    for a, b in zip(theirs, squad, strict=True):
        assert a.question.strip() == b.question.strip()
        assert {text for text, _ in a.answers} == {text for text, _ in b.answers}
