"""Multiple choice: files of alternatives, what their labels are called, bad ones."""

import json

import pytest
from exported import CONFIGS, tokenizer_of

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks.classes import Choice
from jaxlm.tasks.tables import read_table
from jaxlm.types import UserError

SWAG = TaskConfig(
    kind="choice",
    text="sent1",
    pair="sent2",
    choices=("ending0", "ending1", "ending2"),
)
RACE = TaskConfig(
    kind="choice",
    text="article",
    pair="question",
    choices=("options",),
    label="answer",
)


def names_of(task, examples):
    tokenizer = tokenizer_of(CONFIGS["gpt2"])
    return Choice(FinetuneConfig(task=task), tokenizer).labels_of(examples, "x")


def swag(path, *rows):
    head = ",video-id,sent1,sent2,ending0,ending1,ending2,label"
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


def race(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return str(path)


def record(options, answer):
    return {"article": "a", "question": "q", "options": options, "answer": answer}


def test_swag_s_and_race_s_files_are_read(tmp_path):
    rows = ('0,v,"He sits, still.",He,stands up.,"runs, fast.",sleeps.,2',)
    [found] = read_table(swag(tmp_path / "x.csv", *rows), SWAG, labelled=True)
    assert found[:3] == ("He sits, still.", "He", "2")
    assert found.choices == ("stands up.", "runs, fast.", "sleeps.")
    records = record(["x", "y", "z"], "B"), record(["u", "v"], "A")
    found = read_table(race(tmp_path / "x.jsonl", *records), RACE, labelled=True)
    assert [each.choices for each in found] == [("x", "y", "z"), ("u", "v")]
    assert names_of(RACE, found) == ("A", "B", "C")


def test_the_last_columns_of_a_table_may_be_empty(tmp_path):
    rows = "0,v,a,b,c,d,,1", "0,v,a,b,c,d,e,0"
    found = read_table(swag(tmp_path / "x.csv", *rows), SWAG, labelled=True)
    assert [len(each.choices) for each in found] == [2, 3]
    assert names_of(SWAG, found) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,v,a,b,c,,e,1", "line 2: alternative 2 of 3 is empty"),
        ("0,v,a,b,c,,,0", "line 2: 1 alternatives in ending0, ending1, ending2"),
        ("0,v,a,b,,,,0", "line 2: 0 alternatives"),
        ("0,v,a,b,c,d,e,", "line 2: an empty label"),
        ("0,v,a,,c,d,e,1", "line 2: an empty sent2"),
        ("0,v,a,b,c,d,e", "line 2: 7 columns, the first line has 8"),
    ],
)
def test_bad_alternatives_are_named_with_their_row(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        read_table(swag(tmp_path / "x.csv", row), SWAG, labelled=True)
    assert said in str(error.value)


def test_a_list_of_json_has_two_at_least_and_no_empty_one(tmp_path):
    for options, said in (
        ([], "line 1: 0 alternatives in options, at least two"),
        (["x", " "], "line 1: alternative 2 of 2 is empty"),
        ("x", "line 1: 1 alternatives"),
    ):
        path = race(tmp_path / "x.jsonl", record(options, "A"))
        with pytest.raises(UserError, match=said):
            read_table(path, RACE, labelled=True)
    path = race(tmp_path / "x.jsonl", {"article": "a", "question": "q", "answer": "A"})
    with pytest.raises(UserError, match="no key 'options', but article, question"):
        read_table(path, RACE, labelled=True)


def test_a_label_that_is_called_otherwise_says_how_to_name_it(tmp_path):
    records = record(["x", "y"], "1"), record(["x", "y"], "2")
    found = read_table(race(tmp_path / "x.jsonl", *records), RACE, labelled=True)
    with pytest.raises(UserError, match=r"line 2: label '2' is none of 0, 1: pass"):
        names_of(RACE, found)


def test_a_choice_has_columns_of_alternatives():
    for wrong in ({"kind": "choice"}, {"choices": ("a", "b")}):
        with pytest.raises(UserError, match="go together"):
            TaskConfig(**wrong)
    with pytest.raises(UserError, match="both_orders is of two texts"):
        TaskConfig(both_orders=True)
