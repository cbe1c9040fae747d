"""Sources, fragments and sentences: every form of text, packed or broken."""

import bz2
import dataclasses
import gzip
import json
import lzma
import os
import subprocess
import sys

import pytest
import zstandard

from jaxlm import files
from jaxlm.text import documents
from jaxlm.text.documents import read_fragments
from jaxlm.text.find import find_sources
from jaxlm.text.recipe import Recipe
from jaxlm.text.sources import read_file, read_lines
from jaxlm.text.texts import lines_are_sentences, texts_of
from jaxlm.types import UserError


def read(*specs, sentences="split", errors="strict", language="en"):
    """Documents as lists of sentences, and how many byte sequences were replaced."""
    found, replaced = [], 0
    recipe = Recipe(sentences=sentences, errors=errors, languages=(language,))
    for source in find_sources([str(spec) for spec in specs]):
        lines = lines_are_sentences(source, recipe)
        for fragment in read_fragments(dataclasses.replace(source, lines=lines)):
            if fragment.starts:
                found.append([])
            more = texts_of(fragment, recipe)
            found[-1] += more.texts
            replaced += more.replaced
    return found, replaced


def written(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TEXT = "One here. Two there.\nThree.\n\nFour!\n \t\r\n\n  Five? Six.  \n"
SPLIT = [["One here.", "Two there.", "Three."], ["Four!"], ["Five?", "Six."]]
LINES = [["One here. Two there.", "Three."], ["Four!"], ["Five? Six."]]


def test_blank_lines_separate_documents_and_lines_or_the_splitter_sentences(tmp_path):
    path = written(tmp_path / "a.txt", TEXT)
    assert read(path) == (SPLIT, 0)
    assert read(path, sentences="lines") == (LINES, 0)


@pytest.mark.parametrize(
    "text",
    [
        "\n\n \n" + TEXT,
        TEXT.rstrip(),
        TEXT + "\n\n\u3000\n\n",
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace("\n \t\r\n\n", "\n\u00a0\n"),
    ],
    ids=["leading", "no end", "trailing", "windows", "bom", "no-break space"],
)
def test_line_ends_and_blanks_of_any_kind(tmp_path, text):
    assert read(written(tmp_path / "a.txt", text))[0] == SPLIT


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = written(tmp_path / "a.txt", "a\u2028b\x0bc\x85d\x00e\rf\n")
    assert read(path, sentences="lines")[0] == [["a\u2028b\x0bc\x85d\x00e\rf"]]


def test_in_a_file_without_line_feeds_carriage_returns_end_lines(tmp_path):
    for name in ("a.txt", "a.txt.gz"):
        path = packed(tmp_path, name, b"One. Two.\rThree.\r\rFour!\r")
        assert read(path)[0] == [["One.", "Two.", "Three."], ["Four!"]]
        assert list(read_lines(str(path))) == ["One. Two.", "Three.", "", "Four!"]
    (source,) = find_sources([str(tmp_path / "a.txt")])
    (fragment,) = read_fragments(source, verbatim=True)  # as it stands, for decoders
    assert fragment.data == (tmp_path / "a.txt").read_bytes()


def test_chinese_is_split_at_its_own_stops(tmp_path):
    path = written(tmp_path / "a.txt", "今天很好。明天呢？好！")
    assert read(path, language="zh")[0] == [["今天很好。", "明天呢？", "好！"]]


@pytest.mark.parametrize("limit", [2, 3, 7, 16, 64])
def test_where_a_file_is_cut_changes_no_document_and_no_line(
    tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(documents, "FRAGMENT", limit)
    monkeypatch.setattr(documents, "READ", 5)
    texts = [TEXT, "\n\nab cd\n\n\nef\n", "a\n \nb\n\n", "aaa   \nbbb  \n\nc \nd"]
    for text in texts:
        for variant in (text, text.replace("\n", "\r\n")):
            found, _ = read(written(tmp_path / "a.txt", variant), sentences="lines")
            want = variant.replace("\r", "").replace(" \t", "").replace("\n \n", "\n\n")
            assert ["".join("".join(each).split()) for each in found] == [
                "".join(part.split()) for part in want.split("\n\n") if part.split()
            ]


def test_a_long_line_is_cut_at_a_space_and_a_long_word_at_a_character(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(documents, "FRAGMENT", 10)
    path = written(tmp_path / "a.txt", "aaa bbb ccc ddd\n")
    assert read(path, sentences="lines")[0] == [["aaa bbb", "ccc ddd"]]
    path = written(tmp_path / "b.txt", "xé" * 8)
    assert read(path, sentences="lines")[0] == [["xéxéxéx", "éxéxéx", "éxé"]]
    path = written(tmp_path / "c.jsonl", json.dumps({"text": "aaa bbb ccc ddd"}))
    assert read(path, sentences="lines")[0] == [["aaa bbb", "ccc ddd"]]


def test_fragments_can_be_read_from_any_start(tmp_path):
    for name in ("a.txt", "a.txt.gz", "a.txt.xz", "a.txt.zst"):
        (source,) = find_sources([str(packed(tmp_path, name, TEXT.encode()))])
        fragments = list(read_fragments(source))
        for at, fragment in enumerate(fragments):
            rest = read_fragments(source, start=fragment.offset)
            assert [f[:6] for f in rest] == [f[:6] for f in fragments[at:]]


def packed(folder, name, data):
    pack = {
        ".txt": lambda data: data,
        ".bz2": bz2.compress,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        # Two frames, as parallel compressors write them.
        ".zst": lambda data: b"".join(
            zstandard.ZstdCompressor().compress(half)
            for half in (data[: len(data) // 2], data[len(data) // 2 :])
        ),
    }[os.path.splitext(name)[1]]
    return written(folder / name, pack(data))


@pytest.mark.parametrize("packing", ["gz", "xz", "zst", "bz2"])
def test_packed_files_are_read_and_damaged_ones_named(tmp_path, packing):
    path = packed(tmp_path, f"a.txt.{packing}", TEXT.encode() * 1000)
    assert len(read(path)[0]) == 2001
    whole = path.read_bytes()
    written(path, whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=rf"a\.txt\.{packing} is damaged"):
        read(path)
    written(path, b"this is plain text, whatever its name says")
    with pytest.raises(UserError, match=rf"a\.txt\.{packing} is damaged"):
        read(path)


def test_records_of_strings_and_of_lists(tmp_path):
    records = [
        {"text": "One. Two.\n\nThree."},
        {"text": ["One. Two.", "", " Three. "], "id": 7},
        {"text": ""},
    ]
    lines = "\n\n".join(json.dumps(record) for record in records)
    path = written(tmp_path / "a.jsonl", lines + "\n")
    assert read(path)[0] == [["One.", "Two.", "Three."], ["One. Two.", "Three."], []]
    assert read(path, sentences="lines")[0][0] == ["One. Two.", "Three."]
    assert read(path, sentences="auto") == read(path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "is not JSON: Expecting property name"),
        ('{"text": "a", "text": "b"}', "is not JSON: the key 'text' stands twice"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
        ('"text"', "is not a JSON object"),
        ('{"test": "x", "id": 1}', 'no field "text": did you mean test.*test, id'),
        ('{"text": 7}', '"text" is 7, neither a string nor'),
        ('{"text": null}', '"text" is null, neither'),
        ('{"text": ["a", 1]}', r'"text" is \["a", 1\], neither'),
    ],
)
def test_a_bad_record_is_named(tmp_path, line, message):
    path = written(tmp_path / "a.jsonl", '{"text": "ok"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2.*{message}"):
        read(path)


def test_a_record_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_RECORD", 1000)
    path = written(tmp_path / "a.jsonl", json.dumps({"text": "a " * 1000}))
    with pytest.raises(UserError, match="write such documents as"):
        read(path)


def test_half_a_character_in_json_is_replaced(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "a \\ud800 b \\ud83d\\ude00"}\n')
    assert read(path)[0] == [["a \ufffd b 😀"]]


@pytest.mark.parametrize(
    "bad, byte, sequences",
    [
        (b"\xff", "ff", 1),
        (b"\xc0\xaf", "c0", 2),  # overlong
        (b"\xed\xa0\x80", "ed", 3),  # a lone surrogate
        (b"\xe4\xbd", "e4", 1),  # cut short
    ],
    ids=["invalid", "overlong", "surrogate", "short"],
)
def test_bytes_that_are_not_utf8(tmp_path, bad, byte, sequences):
    before = "Tout va bien.\n\nTrès bien: ".encode()
    path = written(tmp_path / "a.txt", before + bad + " \ufffd.\n".encode())
    where = rf"a\.txt, line 3: byte 0x{byte} is not UTF-8"
    with pytest.raises(UserError, match=where):
        read(path)
    found, replaced = read(path, errors="replace")
    assert replaced == sequences  # and not the U+FFFD that was there
    assert found[1] == ["Très bien: " + "\ufffd" * sequences + " \ufffd."]


@pytest.mark.parametrize(
    "content, said",
    [
        ("Hello.".encode("utf-16"), "UTF-16: convert it"),
        ("Hello.".encode("utf-32"), "UTF-32: convert it"),
        ("Hello, world.".encode("utf-16-le"), "binary, or UTF-16"),
        (gzip.compress(b"Hello.", mtime=0), r"packed by gzip: name it \*\.gz"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PAR1 ...", r"Parquet: name it \*\.parquet"),
    ],
)
def test_what_is_surely_no_text_is_named(tmp_path, content, said):
    path = written(tmp_path / "a.txt", content)
    for reader in (lambda: read(path, errors="replace"), lambda: read_file(str(path))):
        with pytest.raises(UserError, match=rf"a\.txt is not UTF-8 text but {said}"):
            reader()


def test_lines_end_at_line_feeds_and_the_byte_order_mark_goes(tmp_path):
    text = "\ufeffa\u2028b\x85c\rd\r\n\n\ufeffe\x0c"
    for name in ("a.txt", "a.txt.bz2"):
        path = packed(tmp_path, name, text.encode())
        found = list(read_lines(str(path)))
        assert found == ["a\u2028b\x85c\rd", "", "\ufeffe\x0c"]
    written(path := tmp_path / "b.txt", b"a\nb \xff\n")
    with pytest.raises(UserError, match=r"b\.txt, line 2: byte 0xff is not UTF-8"):
        list(read_lines(str(path)))


def test_auto_looks_whether_lines_are_paragraphs(tmp_path):
    prose = written(tmp_path / "prose.txt", "It rains. He goes. Mr. X stays.\n" * 50)
    lines = written(tmp_path / "lines.txt", "It rains.\nHe goes.\nMr. X stays.\n" * 50)
    by_name = {"prose": read(prose, sentences="auto")[0], "lines": read(lines)[0]}
    assert by_name["prose"] == by_name["lines"]
    (source,) = find_sources([str(lines)])
    assert lines_are_sentences(source, Recipe())
    (source,) = find_sources([str(prose)])
    assert not lines_are_sentences(source, Recipe())
    (source,) = find_sources([str(written(tmp_path / "empty.txt", "\n \n"))])
    assert not lines_are_sentences(source, Recipe())


def test_globs_and_directories_come_in_order_of_path(tmp_path, monkeypatch):
    for name in ("b.txt", "a/z.txt.gz", "a/b.jsonl", "a/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, gzip.compress(b"x") if "gz" in name else b"")
    (tmp_path / "none").mkdir()
    for name in ("none/x.md", "dump.xml.bz2"):
        written(tmp_path / name, b"")
    monkeypatch.chdir(tmp_path)

    def names(*specs):
        return [source.name for source in find_sources(specs)]

    assert names(".") == ["a/b.jsonl", "a/z.txt.gz", "b.txt"]
    assert names("**/*.txt*") == ["a/z.txt.gz", "b.txt"]
    assert names("b.txt", "a") == ["b.txt", "a/b.jsonl", "a/z.txt.gz"]
    for specs, message in [
        (["c.txt"], r"no text file matches 'c.txt': did you mean b\.txt"),
        (["a/c/d.txt"], "matches 'a/c/d.txt', there is no such file or directory"),
        (["none"], r"no text file matches 'none', a directory with 1 other files"),
        (["https://x.org/b.txt"], "only gs:// is read: download it"),
        (["dump.xml.bz2"], "a Wikipedia's dump is named wiki:dump.xml.bz2"),
        (["wiki:a"], "no text file matches 'a', a directory with 3"),
        (["*.csv"], r"no text file matches '\*.csv'"),
        ([], "no text given"),
        (["a/readme.md"], "a/readme.md is none of"),
        (["b.txt", "*.txt"], "b.txt is named 2 times"),
        (["shipped:hamlet"], "there are austen, classics-zh"),
    ]:
        with pytest.raises(UserError, match=message):
            names(*specs)


def test_the_shipped_corpora_have_their_documents():
    english, _ = read("shipped:austen", sentences="lines")
    chinese, _ = read("shipped:classics-zh", sentences="lines")
    assert (len(english), sum(map(len, english))) == (270, 10_012)
    assert len(chinese) == 259


BUILD = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {sys.argv[2]: tfds.features.Text(), "number": np.int64}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(300):
            text = f"This is {i}. It ends.\\n\\nSo it does."
            yield i, {sys.argv[2]: text, "number": i}

Toy(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def test_a_tfds_dataset_is_read_without_tensorflow(tmp_path):
    for field in ("text", "body"):
        command = [sys.executable, "-c", BUILD, str(tmp_path / field), field]
        subprocess.run(command, check=True, capture_output=True)
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_documents import read
found, _ = read("tfds:{tmp_path}/text/toy/1.0.0")
assert sorted(found) == sorted(
    [f"This is {{i}}.", "It ends.", "So it does."] for i in range(300)
)
assert found == read("tfds:{tmp_path}/text/toy")[0]
from jaxlm.text.find import find_sources
from jaxlm.text.documents import read_fragments
(source,) = find_sources(["tfds:{tmp_path}/text/toy"])
rest = list(read_fragments(source, start=290))
assert [fragment.offset for fragment in rest] == list(range(290, 300))
assert len(source.sha256()) == 64 and source.size > 1000
(source,) = find_sources(["tfds:{tmp_path}/body/toy"], field="body")
assert sum(1 for _ in read_fragments(source)) == 300
from jaxlm.types import UserError
(source,) = find_sources(["tfds:{tmp_path}/text/toy"], field="number")
try:
    next(read_fragments(source))
except UserError as error:
    assert 'record 1: "number" is ' in str(error) and "not text" in str(error)
else:
    raise AssertionError("a number is no text")
for spec, message in [
    ("tfds:{tmp_path}/body/toy", 'has no field "text"'),
    ("tfds:no_such_dataset", "is not a TFDS dataset"),
    ("tfds:wikipedia/20230601.simple", "file_format=array_record"),
]:
    try:
        read(spec)
    except UserError as error:
        assert message in str(error), error
        assert "\\n" not in str(error)
    else:
        raise AssertionError(spec)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.bucket
def test_a_bucket_is_read_like_a_folder(bucket):
    books = files.place(f"{bucket}/books")
    (books / "a.txt").write_text(TEXT)
    (books / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert read(f"{books}/a.txt")[0] == SPLIT
    assert read(f"{books}/*")[0] == read(str(books))[0] == SPLIT * 2
    with pytest.raises(UserError, match="no text file matches"):
        read(f"{books}/c.txt")
