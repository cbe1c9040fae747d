"""Texts of several languages: labels, what is stored, the counts of a vocabulary."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from text.books import HELD_OUT

from jaxlm.config import MaskedData, RunConfig, TextConfig, bert
from jaxlm.text.corpus import open_corpus
from jaxlm.text.documents import read_fragments
from jaxlm.text.find import find_sources, labelled
from jaxlm.text.languages import limits, sample, smoothed, weighted_texts
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import Recipe
from jaxlm.text.texts import converter
from jaxlm.types import UserError

CONFIG = RunConfig(
    model=bert("tiny", vocab_size=300), text=TextConfig(lowercase=False), smoothing=0.5
)
ENGLISH = "It was late, Mr. Brown said. He did not go out.\n\n"
FRENCH = "Il était tard. Elle n'est pas sortie, dit Anne.\n\n"
CHINESE = "今天很晚了。他沒有出去！\n\n"


@pytest.fixture
def texts(tmp_path) -> Path:
    for name, text, times in (
        ("a.txt", ENGLISH, 160),
        ("b.txt", CHINESE, 20),
        ("c.txt", FRENCH, 60),
    ):
        lines = (text.replace("late", f"late {i % 7}") for i in range(times))
        (tmp_path / name).write_text("".join(lines))
    return tmp_path


def specs(folder, *pairs):
    return [f"{label}:{folder}/{name}.txt" for label, name in pairs]


def several(folder):
    return specs(folder, ("en", "a"), ("zh", "b"), ("fr", "c"))


@pytest.mark.parametrize(
    "spec, meant",
    [
        ("en:books/*.txt", ("en", "books/*.txt")),
        ("zh-Hant:a.txt", ("zh-Hant", "a.txt")),
        ("ceb:a:b.txt", ("ceb", "a:b.txt")),
        ("fr:tfds:wiki40b/fr", ("fr", "tfds:wiki40b/fr")),
        ("fr:gs://bucket/*.txt", ("fr", "gs://bucket/*.txt")),
        ("en:shipped:austen", ("en", "shipped:austen")),
        ("en:C:\\books\\a.txt", ("en", "C:\\books\\a.txt")),
        *[
            (plain, ("", plain))
            for plain in (
                *("tfds:wikipedia/en", "gs://bucket/en.txt", "shipped:austen"),
                *("C:\\books\\a.txt", "c:/books/a.txt", "books/en:a.txt"),
                *("./en:a.txt", "EN:a.txt", "en:", "s3://a", "a.txt"),
            )
        ],
    ],
)
def test_a_label_is_told_from_what_else_has_a_colon(spec, meant):
    assert labelled(spec) == meant


def test_sources_of_a_language_come_together(texts):
    shutil.copy(texts / "a.txt", texts / "d.txt")
    found = find_sources([*several(texts), f"en:{texts}/d.txt"])
    names = [(source.language, Path(source.name).stem) for source in found]
    assert names == [("en", "a"), ("en", "d"), ("zh", "b"), ("fr", "c")]


def test_a_corpus_stores_the_language_of_each_document(texts, tmp_path):
    """As corpora of each language, one after another, each split by its own rules."""
    manifest = prepare(CONFIG, several(texts), str(tmp_path / "all"))
    corpus = open_corpus(str(tmp_path / "all"))
    assert manifest.languages == ("en", "zh", "fr")
    assert np.bincount(corpus.documents[:, 1]).tolist() == [160, 20, 60]
    assert (np.diff(corpus.documents[:, 1]) >= 0).all()
    assert [each["language"] for each in manifest.sources] == ["en", "zh", "fr"]
    counts = corpus.language_tokens(0)
    at = 0
    for name, language, tokens in zip(
        "abc", manifest.languages, counts.tolist(), strict=True
    ):
        one = tmp_path / name
        text = dataclasses.replace(CONFIG.text, language=language)
        prepare(
            dataclasses.replace(CONFIG, text=text),
            [f"{texts}/{name}.txt"],
            str(one),
            tokenizer=str(tmp_path / "all/tokenizer"),
        )
        alone = open_corpus(str(one))
        assert alone.num_tokens == tokens
        both = [
            each.read(np.array([start]), tokens)
            for each, start in ((alone, 0), (corpus, at))
        ]
        for a, b in zip(*both, strict=True):
            np.testing.assert_array_equal(a, b)
        at += tokens


def test_one_label_is_the_language_of_the_text(texts, tmp_path):
    text = dataclasses.replace(CONFIG.text, language="fr")
    named = dataclasses.replace(CONFIG, text=text)
    prepare(named, [f"{texts}/c.txt"], str(tmp_path / "named"))
    prepare(CONFIG, [f"fr:{texts}/c.txt"], str(tmp_path / "labelled"))
    a, b = (open_corpus(str(tmp_path / name)) for name in ("named", "labelled"))
    assert a.sha256 == b.sha256 and a.manifest == b.manifest
    assert b.manifest.languages == ("fr",)


def test_any_number_of_processes_and_blocks_gives_the_same_bytes(
    texts, tmp_path, request
):
    prepare(CONFIG, several(texts), str(tmp_path / "one"), options=HELD_OUT)
    request.getfixturevalue("small_units")
    prepare(
        CONFIG, several(texts), str(tmp_path / "two"), options=HELD_OUT, processes=2
    )
    a, b = (open_corpus(str(tmp_path / name)) for name in ("one", "two"))
    assert a.sha256 == b.sha256
    assert (a.documents[:, 2].sum() > 0) and len(np.unique(a.documents[:, 1])) == 3


# Smoothing.


def test_shares_are_the_formula_s():
    """By hand: 1000 times as much text is sampled 126 times as often at S = 0.7."""
    shares = smoothed(np.array([1000, 1]), 0.7)
    assert (
        shares[0] / shares[1] == pytest.approx(1000**0.7) == pytest.approx(125.9, 0.1)
    )
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(smoothed(np.array([3, 0, 1]), 1.0), [0.75, 0, 0.25])
    assert smoothed(np.array([3, 0, 1]), 0.01)[1] == 0


@pytest.mark.parametrize("most", [1 << 20, 3000])
@pytest.mark.parametrize("exponent", [1.0, 0.7, 0.2])
def test_words_are_counted_by_smoothed_shares(texts, exponent, most):
    """All of the text, or a sample of it that no longer has the shares of the text."""
    recipe = Recipe(languages=("en", "zh", "fr"), smoothing=exponent)
    sources = find_sources(several(texts))

    def fragments():
        for source in sources:
            yield from read_fragments(source)

    kept, weights = sample(fragments(), recipe, limits(sources, recipe, most))
    assert sum(len(each.data) for each in kept) <= most
    read: Counter[str] = Counter()
    once = set()
    for text in weighted_texts(kept, weights, recipe):
        kind = "zh" if "。" in text or "！" in text else "fr"
        kind = "en" if "He did" in text or "late" in text else kind
        read[kind] += len(text.encode())
        once.add(text)
    sizes = np.array([(texts / f"{name}.txt").stat().st_size for name in "abc"])
    want = (sizes / sizes.sum()) ** exponent
    want /= want.sum()
    got = np.array([read[name] for name in ("en", "zh", "fr")])
    # White space is not among the texts; one text of each more or less.
    np.testing.assert_allclose(got / got.sum(), want, rtol=0.08 if most > 3000 else 0.2)
    for fragment in kept:  # nothing that was kept is lost
        assert any(each in fragment.data.decode() for each in once)


def test_a_language_with_little_room_in_the_sample_still_has_a_voice(texts):
    recipe = Recipe(languages=("en", "zh", "fr"))
    fragments = [
        fragment
        for source in find_sources(several(texts))
        for fragment in read_fragments(source)
    ]
    most = {"en": 500.0, "zh": 1.0, "fr": 500.0}
    kept, weights = sample(fragments, recipe, most)
    languages = Counter(each.source.language for each in kept)
    assert languages["zh"] == 1 and languages["en"] > 3 and languages["fr"] > 3
    assert weights["zh"] == max(weights.values()) > min(weights.values()) == 1


def test_smoothing_lets_a_small_language_into_the_vocabulary(tmp_path):
    """Rare pieces of a small language lose at S = 1, and no longer at S near 0."""
    rng = np.random.default_rng(0)

    def words(letters, count):
        return [
            " ".join("".join(rng.choice(list(letters), 4)) for _ in range(12))
            for _ in range(count)
        ]

    (tmp_path / "a.txt").write_text("\n\n".join(words("abcdefgh", 900)))
    (tmp_path / "b.txt").write_text("\n\n".join(words("стуфхцчш", 30)))
    kept = {}
    for exponent in (1.0, 0.05):
        config = dataclasses.replace(CONFIG, smoothing=exponent)
        directory = str(tmp_path / f"corpus{exponent}")
        manifest = prepare(config, specs(tmp_path, ("en", "a"), ("ru", "b")), directory)
        assert manifest.recipe.smoothing == exponent
        tokens = open_corpus(directory).tokenizer.tokens
        kept[exponent] = sum(
            len(token) > 3 and token.lstrip("#")[0] in "стуфхцчш" for token in tokens
        )
    assert kept[0.05] > 4 * max(kept[1.0], 1)


# What a user may get wrong.


def test_mistakes_are_one_line(texts, tmp_path):
    def refused(given, config=CONFIG, **options):
        with pytest.raises(UserError) as caught:
            prepare(config, given, str(tmp_path / "corpus"), **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    mixed = refused([f"en:{texts}/a.txt", f"{texts}/b.txt"])
    assert "a.txt is labelled en" in mixed and "b.txt has no language" in mixed
    (texts / "empty.txt").write_text(" \n\n")
    assert "the language de has no text" in refused(
        [*several(texts), f"de:{texts}/empty.txt"]
    )
    text = dataclasses.replace(CONFIG.text, languages=("en", "fr", "zh"))
    known = dataclasses.replace(CONFIG, text=text)
    hinted = refused(specs(texts, ("en", "a"), ("fra", "c")), known)
    assert "does not know the language 'fra': did you mean fr?" in hinted
    assert "a language is labelled by its code" in refused([f"EN:{texts}/a.txt"])
    drive = "no text file matches 'C:a.txt', there is no such file or directory"
    assert refused(["C:a.txt"]) == drive
    assert "named 2 times" in refused(specs(texts, ("en", "a"), ("fr", "a")))
    elmo = dataclasses.replace(
        CONFIG, text=dataclasses.replace(CONFIG.text, tokenizer="words")
    )
    assert "an ELMo has one language" in refused(several(texts), elmo)
    for exponent in (0.0, -1.0, 1.1, float("nan")):
        wrong = r"smoothing = .* is not (in \(0, 1\]|a finite number)"
        with pytest.raises(UserError, match=wrong):
            dataclasses.replace(CONFIG, smoothing=exponent)
    prepare(known, specs(texts, ("en", "a"), ("zh-Hant", "b")), str(tmp_path / "sub"))


def test_another_language_or_smoothing_is_another_corpus(texts, tmp_path):
    directory = str(tmp_path / "corpus")
    prepare(CONFIG, several(texts), directory)
    prepare(CONFIG, several(texts), directory)  # complete
    with pytest.raises(UserError, match=r"smoothing is 0\.9, was 0\.5"):
        prepare(dataclasses.replace(CONFIG, smoothing=0.9), several(texts), directory)
    with pytest.raises(UserError, match=r"languages is \('en', 'zh', 'de'\), was"):
        prepare(CONFIG, specs(texts, ("en", "a"), ("zh", "b"), ("de", "c")), directory)
    with pytest.raises(UserError, match="language"):
        prepare(CONFIG, [str(texts / f"{name}.txt") for name in "abc"], directory)
    # With a vocabulary given, smoothing decides nothing that is stored.
    given = {"tokenizer": f"{directory}/tokenizer"}
    prepare(CONFIG, several(texts), str(tmp_path / "given"), **given)
    other = dataclasses.replace(CONFIG, smoothing=0.9, data=MaskedData(second="same"))
    prepare(other, several(texts), str(tmp_path / "given"), **given)


# Traditional and simplified.


def test_chinese_is_converted_where_asked_and_nothing_else_is(tmp_path):
    pytest.importorskip("opencc")
    japanese = "漢字を学ぶ。\n\n" * 5
    (tmp_path / "zh.txt").write_text("漢字轉換了。這是臺灣的頭髮。\n\n" * 5)
    (tmp_path / "ja.txt").write_text(japanese)
    text = dataclasses.replace(CONFIG.text, chinese="simplified")
    config = dataclasses.replace(CONFIG, text=text)
    given = [f"zh-Hant:{tmp_path}/zh.txt", f"ja:{tmp_path}/ja.txt"]
    manifest = prepare(config, given, str(tmp_path / "corpus"))
    assert manifest.recipe.chinese == "simplified"
    corpus = open_corpus(str(tmp_path / "corpus"))
    ids = corpus.read(np.zeros(1, np.int64), corpus.num_tokens)[0][0]
    cut = int(corpus.language_tokens(0)[0])
    assert corpus.tokenizer.decode(ids[:cut]).startswith("汉字转换了。这是台湾的头发。")
    assert "漢" in corpus.tokenizer.decode(ids[cut:])
    with pytest.raises(UserError, match="chinese is 'as_is', was 'simplified'"):
        prepare(CONFIG, given, str(tmp_path / "corpus"))


def test_conversion_says_what_it_lacks(texts, tmp_path, monkeypatch):
    text = dataclasses.replace(CONFIG.text, chinese="traditional")
    config = dataclasses.replace(CONFIG, text=text)
    with pytest.raises(UserError, match="the text is en: label the Chinese"):
        prepare(config, [f"{texts}/a.txt"], str(tmp_path / "corpus"))
    converter.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[zh\]' \(or opencc\)"):
        prepare(config, several(texts), str(tmp_path / "corpus"))
    assert not (tmp_path / "corpus").exists()
    converter.cache_clear()
