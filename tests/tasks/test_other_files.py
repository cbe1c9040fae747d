"""Tables as other programs write them: read as meant, or refused in one line."""

import csv
import dataclasses
import gzip
import json
import lzma

import pytest
import zstandard
from exported import CONFIGS, tokenizer_of
from reviews import reviews, write_tsv
from roads import mistake

from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks import tables
from jaxlm.tasks.classes import Choice, Classes, Numbers
from jaxlm.tasks.questions import read_questions
from jaxlm.tasks.tables import read_table
from jaxlm.text import sources
from jaxlm.types import UserError

TOKENIZER = tokenizer_of(CONFIGS["gpt2"])
TASK = TaskConfig(text="a", label="y")
NUMBERED = TaskConfig(text="0", label="1")


def table(path, content, task=TASK, **more):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(str(path), task, labelled=more.pop("labelled", True), **more)


def labels(kind, task, examples):
    return kind(FinetuneConfig(task=task), TOKENIZER).labels_of(examples, "x")


# Values of JSON.


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        (["very", "bad"], 0, "line 1: a is a list and no text: ['very', 'bad']"),
        ({"en": "bad"}, 0, "line 1: a is an object and no text"),
        (1984, 0, "line 1: a is a number and no text: 1984"),
        (True, 0, "line 1: a is a boolean and no text"),
        ("bad", [0, 1], r"line 1: y is a list and no text: \[0, 1\]"),
        ("bad", float("nan"), "line 1: y is nan, no finite number"),
        ("bad", None, "line 1: an empty y"),
        ("\u200b \ufeff", 0, "line 1: an empty a"),
        ("\ud800 bad", 0, "line 1: a has half a character"),
        ("bad", "0\n1", "line 1: y has a tab or line end"),
    ],
)
def test_a_value_that_is_no_text_is_named_with_its_type(tmp_path, text, label, said):
    said = said.replace("['very', 'bad']", r"\['very', 'bad'\]")
    with pytest.raises(UserError, match=said):
        table(tmp_path / "x.jsonl", json.dumps({"a": text, "y": label}))


def test_equal_numbers_are_one_class(tmp_path):
    lines = '{"a": "x", "y": 1}\n{"a": "x", "y": 1.0}\n{"a": "x", "y": 1e0}\n'
    found = table(tmp_path / "x.jsonl", lines + '{"a": "x", "y": 0.5}\n')
    assert [each.label for each in found] == ["1", "1", "1", "0.5"]
    # In a table "1" and "1.0" are texts, and so are "Good" and "good": they are told.
    for one, other in (("1", "1.0"), ("Good", "good"), ("1", "01")):
        found = table(tmp_path / "x.tsv", f"a\ty\nx\t{one}\nx\t{other}\n")
        with pytest.raises(UserError, match="would be two classes"):
            labels(Classes, TASK, found)
    # A run whose classes were named by JSON's numbers goes on.
    task = dataclasses.replace(TASK, labels=("0.0", "1.0"))
    found = table(tmp_path / "x.jsonl", lines)
    assert Classes(FinetuneConfig(task=task), TOKENIZER).number(found[0]) == 1


@pytest.mark.parametrize("label", ["1_0", "nan", "inf", "1e999", "1e39", "0x1", "١"])
def test_no_number_is_a_number(tmp_path, label):
    [found] = table(tmp_path / "x.tsv", f"a\ty\nx\t{label}\n")
    task = TaskConfig(kind="number", metric="pearson")
    with pytest.raises(UserError, match="is not a number"):
        Numbers(FinetuneConfig(task=task), TOKENIZER).number(found)


def test_json_that_is_no_lines_of_objects_is_one_line(tmp_path):
    for content, said in (
        ('[{"a": "x", "y": 1}]', "no JSON object: each line is one .jq"),
        ('[\n{"a": "x", "y": 1}\n]', "no JSON object: each line is one .jq"),
        ('{"a": ' + "[" * 100_000, "no JSON: maximum recursion depth"),
    ):
        with pytest.raises(UserError, match=f"x.json, line 1: {said}"):
            table(tmp_path / "x.json", content)
        with pytest.raises(UserError, match=r"no JSON|SQuAD's form"):
            read_questions(str(tmp_path / "x.json"), labelled=True)


# Lines and quotes.

ODD = "one\u2028two\x85three\x0cfour\rfive\x00six\u00a0seven"


def test_only_line_ends_end_a_line(tmp_path):
    for name, content in (
        ("x.tsv", f"\ufeffa\ty\r\n{ODD}\t1\r\n{ODD}\t0"),
        ("x.csv", f'\ufeffa,y\n"{ODD}",1\n"{ODD}",0\n'),
        ("x.jsonl", "\n\n".join(json.dumps({"a": ODD, "y": y}) for y in (1, 0))),
    ):
        found = table(tmp_path / name, content)
        assert [each.text for each in found] == [ODD] * 2, name
        assert [each.label for each in found] == ["1", "0"]
    assert len(table(tmp_path / "x.tsv", "a\ty\rx\t1\rz\t0\r")) == 2  # old Macs
    with pytest.raises(UserError, match="CR in an unquoted field"):
        table(tmp_path / "x.csv", "a,y\nx,1\rz,0\n")


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
def test_quotes_that_csv_wrote_are_told_and_can_be_read(tmp_path, quoting):
    path = tmp_path / "x.tsv"
    want = [('he said "no"', "1"), ("a\ttab", "0"), ("two\nlines", "1"), ("fine", "0")]
    rows = [want[0], want[3]]
    for written in (rows, want):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", quoting=quoting)
            writer.writerows([("a", "y"), *written])
        task = dataclasses.replace(TASK, quoted=True)
        found = read_table(str(path), task, labelled=True)
        assert [(each.text, each.label) for each in found] == written
        if written == rows and quoting == csv.QUOTE_MINIMAL:
            found = read_table(str(path), TASK, labelled=False)
            assert "pass --task.quoted" in tables.remarks("x", found)[0]
        else:
            with pytest.raises(UserError, match=r"pass --task\.quoted"):
                read_table(str(path), TASK, labelled=True)
        other = path.with_suffix(".jsonl")
        other.write_text('{"a": "x", "y": 1}')
        with pytest.raises(UserError, match=r"not TSV: pass --task\.quoted false"):
            read_table(str(other), task, labelled=True)


def test_quotes_round_every_text_are_told(tmp_path):
    with (path := tmp_path / "x.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([("a, b", 1), ("c d", 0)])
    path.write_text("a\ty\n" + path.read_text())
    (said,) = tables.remarks("x", read_table(str(path), TASK, labelled=True))
    assert "pass --task.quoted" in said


def test_a_key_that_stands_twice_is_refused(tmp_path):
    """As in `datasets`, which reads JSON by pyarrow."""
    line = '{"a": "x", "y": 1, "y": 0}\n'
    with pytest.raises(UserError, match="line 1: no JSON: the key 'y' stands twice"):
        table(tmp_path / "x.jsonl", line)


def test_quotes_of_a_text_are_text(tmp_path):
    for rows in (
        'a\ty\n" it \'s "" fine "\t1\n"fine"\t1\nso " so\t0\n',
        'a\ty\n"fine"\t1\nso so\t0\n',  # csv would not have quoted it
    ):
        found = table(tmp_path / "x.tsv", rows)
        assert not tables.remarks("x", found)
        assert '"fine"' in [each.text for each in found]


@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(sources, "_UNPACKED", 2)
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[suffix]
    path = tmp_path / f"x.tsv.{suffix}"
    path.write_bytes(pack(b"a\ty\n" + b"0" * (3 << 20)))
    with pytest.raises(UserError, match="unpacks to more than 2 MiB: unpack it"):
        read_table(str(path), TASK, labelled=True)


# Headers and columns.


@pytest.mark.parametrize(
    "rows",
    [
        "sentence\tlabel\nx\t1\nz\t0\n",  # a word for a label among numbers
        "frase\tclasse\nx\t1\nz\t0\n",
        "text\tlabel\nx\tgood\nz\tbad\n",  # a word for a label
        "Satz\tKlasse\nx\tgood\nz\tbad\nx\tgood\nz\tbad\n",  # the only one alone
    ],
)
def test_a_header_is_no_example(tmp_path, rows):
    said = r"line 1 looks like a header .*name them as it does, --task\.text NAME"
    with pytest.raises(UserError, match=said):
        table(tmp_path / "x.tsv", rows, NUMBERED)
    # With the classes of a model, labels that are not read tell it as well.
    task = dataclasses.replace(NUMBERED, labels=("0", "1", "bad", "good"))
    with pytest.raises(UserError, match=said):
        table(tmp_path / "x.tsv", rows, task, labelled=False)


def test_a_header_without_labels_is_no_text_to_answer(tmp_path):
    task = TaskConfig(text="0", label="1", labels=("0", "1"))
    for head in ("Sentence", "text_a\tid", "tweet text", "#1 String", "评论"):
        row = "\nx" + "\t7" * head.count("\t")
        with pytest.raises(UserError, match="looks like a header"):
            table(tmp_path / "x.tsv", head + row * 2, task, labelled=False)


@pytest.mark.parametrize(
    "rows",
    [
        "fine\t1\nx\t0\nz\t0\n",
        "good film\tgood\nx\tbad\n",
        "x\tnews\nx\tsport\nz\tnews\n",
        "review\tgood\nx\tbad\nx\tgood\n",  # an odd text with a known label
    ],
)
def test_an_example_is_no_header(tmp_path, rows):
    found = table(tmp_path / "x.tsv", rows, NUMBERED)
    assert len(found) == rows.count("\n") and found[0].width == 2
    task = dataclasses.replace(NUMBERED, labels=tuple({e.label for e in found}))
    assert len(table(tmp_path / "x.tsv", rows, task, labelled=False)) == len(found)


def test_names_in_a_header_may_have_blanks_around_them(tmp_path):
    found = table(tmp_path / "x.csv", " a, y\u200b\nx, 1\n")
    assert found[0][:3] == ("x", None, "1")


def test_numbers_that_pandas_wrote_as_a_header_are_one(tmp_path):
    found = table(tmp_path / "x.csv", "0,1\nx,1\nz,0\n", NUMBERED)
    assert [each.text for each in found] == ["x", "z"]


@pytest.mark.parametrize(
    ("rows", "task", "said"),
    [
        ("a\ty\nx\t1\n", TaskConfig(text="a", label="1"), "no column '1' .*all by num"),
        ("a\ta\ty\nx\tz\t1\n", TASK, "two columns 'a' in its header"),
        ("a\ty\nx\t1\na\ty\nz\t0\n", TASK, "line 3: the header again"),
    ],
)
def test_wrong_headers_are_told(tmp_path, rows, task, said):
    with pytest.raises(UserError, match=said):
        table(tmp_path / "x.tsv", rows, task)


def test_a_column_of_numbers_is_hardly_the_text(tmp_path):
    found = table(tmp_path / "x.tsv", "7\t1\n8\t0\n", NUMBERED)
    assert "all texts are numbers" in tables.remarks("x", found)[0]


def test_how_often_each_class_is_there_is_said(tmp_path):
    fields = {"text": "a", "choices": ("b", "c", "d"), "label": "y"}
    task = TaskConfig(kind="choice", **fields)
    rows = "a\tb\tc\td\ty\n" + "x\tx\tx\tx\t1\nx\tx\tx\tx\t2\n" * 10
    found = table(tmp_path / "x.tsv", rows, task)
    named = dataclasses.replace(task, labels=labels(Choice, task, found))
    said = Choice(FinetuneConfig(task=named), TOKENIZER).remarks("x", found, True)
    assert said == ["classes in x: 0 (0), 1 (10), 2 (10)"]


# The road.


@pytest.mark.long
def test_the_road_tells_what_it_reads(model_directory, tmp_path, capsys):
    """Columns by number: a dev file of its own form, wider files, headers."""
    rows = reviews(60, 1)
    train = tmp_path / "train.tsv"
    train.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    dev = write_tsv(tmp_path / "dev.tsv", ("id", "y", "review", "y2"), [
        (str(i), label, text, label) for i, (text, label) in enumerate(reviews(20, 2))
    ])  # fmt: skip
    numbers = ["--task.text", "0", "--task.label", "1"]
    flags = "--batch 16 --length 16 --task.buckets 16 --task.epochs 1 --mesh.data 1"
    run, out = str(tmp_path / "r"), str(tmp_path / "out.tsv")
    words = ["finetune", "sst2", "--init", model_directory, "--workdir", run, *numbers]
    words += [*flags.split(), "--log.tensorboard", "false"]
    headed = write_tsv(tmp_path / "headed.tsv", ("sentence", "label"), rows)
    assert "looks like a header" in mistake(capsys, *words, "--data", headed)
    own = ["--dev_task.text", "review", "--dev_task.label", "y"]
    words += ["--data", str(train), "--dev", dev]
    assert main([*words, *own]) == 0
    said = capsys.readouterr().err
    assert main([*words, *own[:-1], "y2"]) == 2  # not the run's dev file
    assert "data_sha256" in capsys.readouterr().err
    count = sum(label == "0" for _, label in rows)
    assert f"train.tsv: 0 ({count}), 1 ({60 - count})" in said
    # One text a line, a header, a column more.
    predict = ["predict", run, "--out", out, "--data"]
    narrow, wide = tmp_path / "narrow.tsv", tmp_path / "wide.tsv"
    narrow.write_text("sentence\na warm film\ndull\n")
    assert "looks like a header" in mistake(capsys, *predict, str(narrow))
    assert "looks like a header" in mistake(capsys, *predict, headed)
    narrow.write_text("a warm film\ndull\n")
    assert main([*predict, str(narrow)]) == 0
    assert "has 1 columns, the training file 2" in capsys.readouterr().err
    wide.write_text("a warm film\t1\tx\ndull\t0\tx\n")
    assert main(["evaluate", run, "--data", str(wide)]) == 0
    assert "has 3 columns, the training file 2" in capsys.readouterr().err
    assert main([*predict, headed, "--task.text", "sentence"]) == 0
    assert "columns" not in capsys.readouterr().err
    with open(out) as file:
        assert len(file.readlines()) == 61
    pair = mistake(capsys, *predict, str(wide), "--task.pair", "2")
    assert "reads one text a row" in pair
    over = mistake(capsys, "predict", run, "--data", str(wide), "--out", str(wide))
    assert "is the file of --data" in over and wide.read_text().startswith("a warm")
