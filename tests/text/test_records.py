"""Records of other programs: columns of CSV and Parquet, articles of a dump."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from noted import noted
from text.books import CONFIG, contents
from text.test_documents import read, written

from jaxlm.text import units
from jaxlm.text.documents import read_fragments
from jaxlm.text.find import find_sources
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.text.sources import read_file, read_lines
from jaxlm.text.texts import texts_of
from jaxlm.types import UserError

ROWS = [
    {"id": "1", "text": 'He said, "no".\nShe left.', "title": "a"},
    {"id": "2", "text": "", "title": ""},
    {"id": "3", "text": "Très bien,\u2028oui.", "title": "c"},
]
WANT = [['He said, "no".', "She left."], [], ["Très bien,\u2028oui."]]


def texts(path, field="text", **options):
    recipe = Recipe(**options)
    (source,) = find_sources([str(path)], field=field)
    return [texts_of(each, recipe).texts for each in read_fragments(source)]


def table(path, rows=ROWS):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_column_of_csv_is_read_with_quotes_and_line_ends(tmp_path):
    path = table(tmp_path / "a.csv")
    assert texts(path) == WANT
    written(tmp_path / "b.csv.gz", gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert texts(tmp_path / "b.csv.gz", sentences="lines") == WANT
    assert texts(path, "title") == [["a"], [], ["c"]]


def test_a_column_of_parquet_is_read_by_row_groups(tmp_path):
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    path = parquet(tmp_path / "a.parquet", columns, row_group_size=2)
    assert texts(path) == WANT and texts(path, "title") == [["a"], [], ["c"]]
    lists = {"text": [["One. Two.", "Three."], ["Four."]]}
    path = parquet(tmp_path / "b.parquet", lists)
    assert texts(path) == [["One. Two.", "Three."], ["Four."]]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_can_be_read_from_any_row(tmp_path, form):
    rows = [{"text": f"Row {i}."} for i in range(200)]
    path = tmp_path / f"a.{form}"
    if form == "csv":
        table(path, rows)
    else:
        parquet(path, {"text": [row["text"] for row in rows]}, row_group_size=30)
    (source,) = find_sources([str(path)])
    whole = [each[1:4] for each in read_fragments(source)]
    for start in (0, 1, 29, 30, 77, 199, 200):
        assert [each[1:4] for each in read_fragments(source, start)] == whole[start:]


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,txt\n1,a\n", r'no field "text": did you mean txt\? it has id, txt'),
        ("", 'no field "text": it has none'),
        ("id,text\n1\n", "line 2: 1 columns, the first line has 2"),
        ('text\n"a"b\n', "line 2: .*expected after"),
        ("text,text\na,b\n", "has two columns 'text'"),
        (b"text\nok\na \xff b\n", "record 2: byte 0xff is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path, content, message):
    path = written(tmp_path / "a.csv", content)
    with pytest.raises(UserError, match=rf"a\.csv.*{message}"):
        texts(path)


def test_bytes_of_a_csv_that_are_not_utf8_are_counted(tmp_path):
    path = written(tmp_path / "a.csv", b"text\nok\na \xff b\n")
    assert read(path, errors="replace") == ([["ok"], ["a \ufffd b"]], 1)


def test_what_is_wrong_with_a_parquet(tmp_path):
    columns = {"body": ["a"], "n": [1], "text": ["a"]}
    path = parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=r"did you mean body.* it has body, n, text"):
        texts(path, "bdy")
    with pytest.raises(UserError, match="the column n is of int64, not text"):
        texts(path, "n")
    path = parquet(tmp_path / "b.parquet", {"text": ["a", None]})
    with pytest.raises(UserError, match=r"b\.parquet, record 2.* is null, neither"):
        texts(path)
    whole = path.read_bytes()
    size = len(whole)
    flipped = [bytes([*whole[:at], 255, *whole[at + 1 :]]) for at in range(0, size, 9)]
    for content in (b"", b"PAR1", whole[:-9], b"x" * size, *flipped):
        written(path, content)
        with pytest.raises(UserError) as caught:
            texts(path)
        assert "b.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_of_tables_is_read_where_it_has_no_text(tmp_path):
    table(tmp_path / "a.csv")
    parquet(tmp_path / "b.parquet", {"text": ["x"]})
    assert [each.kind for each in find_sources([str(tmp_path)])] == ["csv", "parquet"]
    written(tmp_path / "c.txt", "x")
    assert [each.kind for each in find_sources([str(tmp_path)])] == ["txt"]


def test_a_flag_names_the_field(tmp_path):
    table(tmp_path / "a.csv", [{"body": f"Number {i}."} for i in range(20)])
    options, directory = ReadOptions(field="body"), str(tmp_path / "c")
    manifest = prepare(CONFIG, [str(tmp_path)], directory, options=options)
    assert manifest.documents == 20 and manifest.recipe.field == "body"
    with pytest.raises(UserError, match="field is '', was 'body'"):
        prepare(CONFIG, [str(tmp_path)], directory)
    written(tmp_path / "a.txt", "text")
    with pytest.raises(UserError, match=r"--field body: .*a\.txt has no fields"):
        prepare(CONFIG, [str(tmp_path / "a.txt")], directory, options=options)


DUMP = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11"
 xml:lang="de"><siteinfo><sitename>Wikipedia</sitename><dbname>dewiki</dbname>
<namespaces><namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">Datei</namespace>
<namespace key="14" case="first-letter">Kategorie</namespace></namespaces></siteinfo>
{}</mediawiki>
"""
PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>7</id>{redirect}
<revision><id>1</id><timestamp>2024-01-01T00:00:00Z</timestamp>
<contributor><username>A</username><id>2</id></contributor>
<model>wikitext</model><format>text/x-wiki</format>
<text bytes="9" xml:space="preserve">{text}</text><sha1>x</sha1></revision></page>
"""
ARTICLE = """\
{{Infobox|a={{b|c}}
|d=e}}
'''Köln''' ({{IPA|x}}, ''Colonia'') ist eine [[Stadt|Großstadt]] am
[[Rhein]]&amp;nbsp;und hat &lt;!-- fast --&gt;1.000.000&lt;ref&gt;{{cite}}.&lt;/ref&gt;
Menschen{{fact}}, so
[http://x.org die Stadt] http://y.org .
[[Datei:Dom.jpg|mini|Der [[Kölner Dom|Dom]] bei Nacht]]
[[Bild:Alt.png|thumb|Ein altes Bild]]

== Geschichte ==
{| class="wikitable"
|-
! Jahr !! Menschen
|-
| 1900 || 400.000
|}
* [[Liste]] von Dingen
# Zweitens
: eingerückt
&lt;math&gt;x^2&lt;/math&gt;
Der zweite Absatz&lt;br /&gt;in zwei Zeilen&lt;/span&gt;. __NOTOC__
&lt;gallery&gt;
Datei:A.jpg|Ein Bild
&lt;/gallery&gt;
&lt;references /&gt;
[[Kategorie:Ort]] [[Category:Town]] [[en:Cologne]]
"""
PARAGRAPHS = """\
Köln (Colonia) ist eine Großstadt am
Rhein und hat 1.000.000
Menschen, so
die Stadt.
Der zweite Absatz
in zwei Zeilen."""


def page(text, title="Köln", ns=0, redirect=""):
    redirect = f'<redirect title="{redirect}" />' * bool(redirect)
    return PAGE.format(text=text, title=title, ns=ns, redirect=redirect)


@pytest.fixture
def dump(tmp_path):
    pages = [
        page(ARTICLE),
        page("#WEITERLEITUNG [[Köln]]", "Cöln", redirect="Köln"),
        page("Ein Gespräch.", "Diskussion:Köln", ns=1),
        page("Ein ''Dorf''.", "Dorf"),
    ]
    content = DUMP.format("".join(pages)).encode()
    written(tmp_path / "d.xml", content)
    half = len(content) // 2  # two streams, as in the dumps that are offered
    whole = bz2.compress(content[:half]) + bz2.compress(content[half:])
    written(tmp_path / "d.xml.bz2", whole)
    written(tmp_path / "d.xml.gz", gzip.compress(content))
    return tmp_path


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2", "d.xml.gz"])
def test_articles_of_a_dump_are_documents_of_plain_paragraphs(dump, name):
    found = texts(f"de:wiki:{dump / name}", sentences="lines", languages=("de",))
    assert found == [PARAGRAPHS.split("\n"), ["Ein Dorf."]]
    (source,) = find_sources([f"wiki:{dump / name}"])
    fragments = list(read_fragments(source))
    assert [f[1:4] for f in read_fragments(source, 1)] == [fragments[1][1:4]]


def test_variants_of_chinese_are_read_in_the_first(dump):
    text = "半&amp;#xd800;字。\n"
    text += "-{H|zh-cn:甲; zh-tw:乙}-這是-{zh-hans:计算机;zh-hant:電腦}-和-{雨}-。"
    written(dump / "d.xml", DUMP.format(page(text)))
    assert texts(f"wiki:{dump / 'd.xml'}") == [["半\ufffd字。", "這是计算机和雨。"]]


def test_any_number_of_processes_reads_a_dump_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "BLOCK", 1000)
    pages = (page(f"Article {i} is here. It {i} ends.", f"A{i}") for i in range(150))
    written(tmp_path / "d.xml", DUMP.format("".join(pages)))
    for processes in (1, 2):
        directory = str(tmp_path / f"c{processes}")
        source = [f"wiki:{tmp_path / 'd.xml'}"]
        options = ReadOptions(holdout=0.01)
        made = prepare(CONFIG, source, directory, options=options, processes=processes)
        assert made.documents == 150 and made.held_out >= 2
    assert contents(tmp_path / "c1") == contents(tmp_path / "c2")


def test_a_dump_is_read_in_bounded_memory(tmp_path):
    def peak(count):
        pages = "".join(page("Text.", f"A{i}") for i in range(count))
        written(tmp_path / "d.xml", DUMP.format(pages))
        (source,) = find_sources([f"wiki:{tmp_path / 'd.xml'}"])
        tracemalloc.start()
        assert sum(1 for _ in read_fragments(source)) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(2500) < 1.5 * peak(300)


def test_what_is_wrong_with_a_dump(dump, monkeypatch):
    path = dump / "d.xml"
    whole = path.read_text()
    damaged = [whole.replace("<ns>0", "<ns>x"), whole.replace("<namespace ", "<name ")]
    for content in ("", "text", "<html><p>x</p></html>", whole[:-200], *damaged):
        written(path, content)
        with pytest.raises(
            UserError, match=r"d\.xml is not a complete dump of a Wikipedia"
        ):
            texts(f"wiki:{path}")
    with pytest.raises(UserError, match="is not annotated as pku"):
        find_sources([f"wiki:{path}"], "pku")
    monkeypatch.setitem(sys.modules, "mwxml", None)
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[wiki\]'"):
        texts(f"wiki:{path}")


PACKERS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("packing", PACKERS)
def test_damage_between_packed_parts_ends_no_file_early(tmp_path, packing):
    """Parallel compressors and Wikipedia write many parts, of which each has a head."""
    one, two = (PACKERS[packing](text * 9) for text in (b"One.\n", b"Two.\n"))
    path = tmp_path / f"a.txt.{packing}"
    path.write_bytes(one + two)
    assert read_file(str(path)).split() == 9 * ["One."] + 9 * ["Two."]
    assert list(read_lines(str(path))) == 9 * ["One."] + 9 * ["Two."]
    if packing != "zst":
        path.write_bytes(one + bytes(512))  # what pads a tape
        assert len(read_file(str(path)).split()) == 9
    for rest in (bytes([two[0] ^ 4]) + two[1:], b"no archive", two[:5]):
        path.write_bytes(one + rest)
        for reader in (read_file, lambda path: list(read_lines(path))):
            with pytest.raises(UserError, match=rf"a\.txt\.{packing} is damaged"):
                reader(str(path))


def test_what_a_directory_has_besides_its_text_is_named(tmp_path):
    """Files of another kind, those with a suffix in capitals, and links."""
    for name in ("a.txt", "b.txt.gz", "T.TXT", "t.csv", "readme.md", "x.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "folder")
    found, notes = noted(find_sources, [str(tmp_path)])
    assert [Path(each.name).name for each in found] == ["a.txt", "b.txt.gz"]
    assert len(notes) == 1
    assert "2 files of one kind taken as text, not T.TXT, linked, t.csv:" in notes[0]
