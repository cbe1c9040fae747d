"""Files of rows, and what is said of bad ones: the file, the row, the remedy."""

import json
import lzma
import subprocess
import sys

import pytest

from jaxlm.config import TaskConfig
from jaxlm.tasks.data_files import find_data_files
from jaxlm.tasks.tables import read_table
from jaxlm.types import UserError

PAIR = TaskConfig(text="a", pair="b", label="y")
ONE = TaskConfig(text="a", label="y")


def read(path, content, task, *, labelled=True):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(str(path), task, labelled=labelled)


def test_tsv_csv_and_jsonl_say_the_same(tmp_path):
    want = [('it\'s "fine"', "so, so", "1"), ("no", "way", "0")]
    tsv = 'y\ta\tb\n1\tit\'s "fine"\tso, so\n0\tno\tway\n'
    csv = 'a,y,b\r\n"it\'s ""fine""",1,"so, so"\r\nno,0,way\r\n'
    records = [{"a": a, "b": b, "y": int(y)} for a, b, y in want]
    jsonl = "\n".join(map(json.dumps, records))
    for name, content in (("x.tsv", tsv), ("x.csv", csv), ("x.jsonl", jsonl)):
        found = read(tmp_path / name, content, PAIR)
        assert [(e.text, e.pair, e.label) for e in found] == want, name


def test_columns_have_numbers_where_there_is_no_header_and_files_may_be_packed(
    tmp_path,
):
    task = TaskConfig(text="3", label="1")
    packed = lzma.compress(b"gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tHim ran.\n")
    found = read(tmp_path / "x.tsv.xz", packed, task)
    assert [(e.text, e.label) for e in found] == [
        ("The sailors rode.", "1"),
        ("Him ran.", "0"),
    ]


@pytest.mark.parametrize(
    ("content", "task", "said"),
    [
        ("a\ty\nx\t1\n", PAIR, "line 1: no column 'b' in its header (a, y)"),
        ("a\ty\nx\t1\tz\n", ONE, "line 2: 3 columns, the first line has 2"),
        ("a\ty\nx\n", ONE, "line 2: 1 columns"),
        ("a\ty\nx\t1\n \t0\n", ONE, "line 3: an empty a"),
        ("a\ty\n\nx\t1\n", ONE, "line 2: a blank line, and rows after it"),
        ("a\nx\n\nz\n", TaskConfig(text="a", label="a"), "column a cannot be both"),
        ("a\ty\nx\t\n", ONE, "line 2: an empty y"),
        ("a\ty\n", ONE, "has no rows"),
        ("", ONE, "has no rows"),
        ("a\ty\nna\u00efve\t1\n".encode("latin-1"), ONE, "line 2: byte 0xef is not"),
        ("x\t1\n", TaskConfig(text="0", label="5"), "no column 5, the last is 1"),
    ],
)
def test_a_bad_table_is_named_with_its_row(tmp_path, content, task, said):
    with pytest.raises(UserError) as error:
        read(tmp_path / "x.tsv", content, task)
    assert said in str(error.value) and "x.tsv" in str(error.value)


def test_a_bad_jsonl_is_named_with_its_row(tmp_path):
    for content, said in (
        ('{"a": "x", "y": 1}\n{"a": "x"}\n', "line 2: no key 'y', but a"),
        ('{"a": "x", "y"\n', "line 1: no JSON"),
        ("[1]\n", "line 1: no JSON object"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / "x.jsonl", content, ONE)


def test_the_files_of_a_directory_are_found_by_their_names(tmp_path):
    for name in ("train.tsv", "msr_paraphrase_train.txt", "dev.tsv", "test.tsv"):
        (tmp_path / name).write_text("x")
    found = find_data_files(str(tmp_path))
    assert (found.train, found.dev) == tuple(
        str(tmp_path / name) for name in ("train.tsv", "dev.tsv")
    )
    assert find_data_files(str(tmp_path / "test.tsv")).dev == ""
    (tmp_path / "train.tsv").unlink()
    assert find_data_files(str(tmp_path)).train.endswith("msr_paraphrase_train.txt")
    (tmp_path / "msr_paraphrase_train.txt").unlink()
    with pytest.raises(UserError, match=r"has no train.*: it has de"):
        find_data_files(str(tmp_path))
    with pytest.raises(UserError, match="no file or directory"):
        find_data_files(str(tmp_path / "nowhere"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "recipe", "counts"),
    [
        pytest.param("SST-2", "sst2", (67_349, 872), marks=pytest.mark.long),
        ("MRPC", "mrpc", (3667, 408)),
        ("STS-B", "stsb", (5749, 1500)),
    ],
)
def test_glue_s_own_files_are_read_whole(shared, name, recipe, counts):
    from jaxlm.config import load_config

    task = load_config(recipe).task
    splits = find_data_files(str(shared / "glue" / name))
    found = [read_table(path, task, labelled=True) for path in splits]
    assert tuple(map(len, found)) == counts


BUILD = """
import sys
import tensorflow_datasets as tfds

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "sentence": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["negative", "positive"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager):
        counts = {"train": 8, "validation": 4, "test": 2}
        return {name: self._generate_examples(n) for name, n in counts.items()}

    def _generate_examples(self, count):
        for i in range(count):
            label = i % 2 if count > 2 else -1
            yield i, {"sentence": f"film {i} of {count}", "label": label}

Toy(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""

READ = """
import sys
from jaxlm.config import TaskConfig
from jaxlm.tasks.data_files import find_data_files
from jaxlm.tasks.tables import read_table
from jaxlm.types import UserError
spec = f"tfds:{sys.argv[1]}/toy"
splits = find_data_files(spec)
assert splits == (f"{spec}:train", f"{spec}:validation"), splits
assert find_data_files(f"{spec}:test") == (f"{spec}:test", "")
task = TaskConfig()
found = read_table(splits.dev, task, labelled=True)
assert sorted(found)[1][:3] == ("film 1 of 4", None, "positive"), found
assert len(read_table(splits.train, task, labelled=True)) == 8
assert len(read_table(f"{spec}:test", task, labelled=False)) == 2
for path, each, message in [
    (f"{spec}:test", task, "record 0: an empty label"),
    (f"{spec}:dev", task, "no split 'dev': it has"),
    (spec, task, "names no split"),
    (splits.dev, TaskConfig(text="text"), 'no field "text": it has'),
]:
    try:
        read_table(path, each, labelled=True)
    except UserError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
assert "tensorflow" not in sys.modules
"""


def test_a_tfds_dataset_is_a_task_with_its_classes_named(tmp_path):
    for code in (BUILD, READ):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]


def test_a_field_of_csv_is_whole_and_a_quote_that_does_not_end_is_said(tmp_path):
    task = TaskConfig(text="a", label="y")
    long = "x" * 200_000
    content = f'a,y\r\n"good\r\nfilm",1\r\n{long},0\r\n\r\n'
    found = read(tmp_path / "x.csv", content, task)
    assert [each.text for each in found] == ["good\r\nfilm", long]
    with pytest.raises(UserError, match="line 3: unexpected end of data"):
        read(tmp_path / "x.csv", 'a,y\nfine,0\n"bad,1\n', task)


def test_null_is_nothing(tmp_path):
    for record, said in (
        ({"a": None, "y": 1}, "line 1: an empty a"),
        ({"a": "x", "y": None}, "line 1: an empty y"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / "x.jsonl", json.dumps(record), ONE)
