"""WordPiece gives Google's ids: against a plain implementation, and Hugging Face's."""

import itertools
import json
import lzma
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text import google_tokenization as google
from tokenizers import BertWordPieceTokenizer
from tokenizers import Tokenizer as Library

from jaxlm.text.tokenizers import WordPiece, load_tokenizer
from jaxlm.text.tokenizers.published import looks_cased
from jaxlm.text.tokenizers.tokenizer import SPECIAL, read_vocabulary
from jaxlm.types import SpecialTokens, UserError

TOKENS = (
    *SPECIAL,
    *("[", "]", "un", "##aff", "##able", "the", ",", ".", "'", "!", "-", "emma"),
    *("can", "t", "σ", "ς", "##σ", "##ς", "ο", "##δος", "e", "##e", "i", "你", "好"),
)
NASTY = [
    "unaffable the, UNAFFABLE!",
    "a\x00b\x01c\x07 un\u00adaff\u200bable\ufeff \ufffdthe",
    "the\u2028the\u2029the\u0085the\u00a0the\u3000the\x0bthe\x0cthe\x1cthe",
    "the\rthe\tthe\nthe\r\nthe",
    "ÉÈê İı ﬁ Å e\u0301\u0323 ΟΔΟΣ οΣ. Σ σΣσ ΟΣ\u00adΟ",
    "你好the你好，。！ \U00020000\U0002f800豈 か カナ 한국어",
    "e" * 200 + " " + "e" * 201 + " un" + "able" * 3,
    "[MASK] [mask] [CLS]the",
    "can't—the “emma”…!?",
    "👩\u200d👩\u200d👧 the 🇫🇷",
    "\u202ethe\u202c مرحبا שלום हिन्दी ไทย",
    "",
    "   ",
    "\x00",
    "\ue000the \U000f0000",
    # Each range of ideographs, from one before to one after.
    *(f"e{chr(c)}e" for low, high in google.CJK for c in range(low - 1, low + 2)),
    *(f"e{chr(c)}e" for low, high in google.CJK for c in range(high - 1, high + 2)),
]

SHARED = Path(__file__).resolve().parents[3] / "shared/data"


def check(tokenizer, texts):
    """The fast tokenizer's ids and word starts are the plain one's."""
    vocabulary = {token: i for i, token in enumerate(tokenizer.tokens)}
    for text in texts:
        ids, starts, *_ = tokenizer.encode(text)
        want, word_start = google.tokenize(text, vocabulary, tokenizer.lowercase)
        assert ids.tolist() == want, ascii(text)
        assert starts.tolist() == word_start, ascii(text)


@pytest.mark.parametrize("lowercase", [True, False])
def test_nasty_text_gives_google_s_ids(lowercase):
    tokenizer = WordPiece(TOKENS, lowercase=lowercase)
    check(tokenizer, NASTY)
    check(tokenizer, NASTY[::-1])  # another neighbour, the same words


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4), st.booleans())
def test_any_text_gives_google_s_ids(texts, lowercase):
    texts = [text.replace("\n", " ") for text in texts]
    check(WordPiece(TOKENS, lowercase=lowercase), texts)


def test_every_character_gives_google_s_ids():
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    texts = [f"e{char}e" for char in characters]
    for lowercase in (True, False):
        tokenizer = WordPiece(TOKENS, lowercase=lowercase)
        # All at once by the fast way; by the plain way those that might be special.
        odd = [
            text
            for text in texts
            if unicodedata.category(text[1]) not in ("Cn", "Lo", "So", "Co", "Sm")
            or len(unicodedata.normalize("NFD", text)) > 3
        ]
        check(tokenizer, odd[:: 13 if lowercase else 17])


def test_memory_that_overflows_changes_nothing(monkeypatch):
    monkeypatch.setattr("jaxlm.text.tokenizers.tokenizer.CACHED", 2)
    check(WordPiece(TOKENS, lowercase=True), NASTY * 3)


def test_special_tokens_are_read_from_text_only_when_asked():
    tokenizer = WordPiece(TOKENS, lowercase=True)
    plain = tokenizer.encode("the [MASK].")
    assert [tokenizer.token(i) for i in plain.ids] == ["the", "[", "[UNK]", "]", "."]
    asked = tokenizer.encode("the [MASK].", specials=True)
    assert [tokenizer.token(i) for i in asked.ids] == ["the", "[MASK]", "."]
    assert asked.word_start.tolist() == [True, True, True]
    assert asked.ids.dtype == np.int32 and asked.counts.tolist() == [3]
    assert tokenizer.special == SpecialTokens(0, 1, 2, 3, 4, len(TOKENS))


def test_decoding_joins_pieces_and_ideographs():
    tokenizer = WordPiece(TOKENS, lowercase=True)
    ids = tokenizer.encode("Emma, unaffable! 你好").ids
    assert tokenizer.decode(ids) == "emma, unaffable!你好"
    with pytest.raises(IndexError, match="not in"):
        tokenizer.token(len(TOKENS))
    assert tokenizer.id("emma") == TOKENS.index("emma") and tokenizer.id("x") is None


def test_encoding_nothing():
    tokenizer = WordPiece(TOKENS, lowercase=True)
    assert [len(each) for each in tokenizer.encode_flat([])] == [0, 0, 0, 0]
    ids, starts, counts, _ = tokenizer.encode_flat(["", "the", ""])
    assert (len(ids), len(starts), counts.tolist()) == (1, 1, [0, 1, 0])


def test_a_vocabulary_of_the_wrong_case_is_refused(tmp_path):
    cased = tmp_path / "cased.txt"
    cased.write_text("[PAD]\n[UNK]\nThe\nEmma\nthe\n")
    assert load_tokenizer(cased).encode("The").ids.tolist() == [2]
    with pytest.raises(UserError, match="capitals: pass --text"):
        load_tokenizer(cased, lowercase=True)
    uncased = tmp_path / "uncased.txt"
    uncased.write_text("[PAD]\n[UNK]\nthe\nemma\n")
    assert load_tokenizer(uncased, lowercase=False).encode("The").ids.tolist() == [1]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(uncased).encode("The").ids.tolist() == [2]
    with pytest.raises(UserError, match="pass --text"):
        load_tokenizer(uncased, lowercase=False)


def test_vocabulary_files_with_windows_line_ends_and_with_ids(tmp_path):
    windows = tmp_path / "windows.txt"
    windows.write_bytes(b"[PAD]\r\n[UNK]\r\nthe\r\n")
    tabbed = tmp_path / "tabbed.txt"  # ERNIE's
    tabbed.write_text("[PAD]\t0\n[UNK]\t1\nthe\t2\n")
    assert read_vocabulary(windows) == read_vocabulary(tabbed) == (*TOKENS[:2], "the")
    assert load_tokenizer(windows).sha256 == load_tokenizer(tabbed).sha256


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty vocabulary"),
        (b"a\nb\na\n", "'a' stands at 0 and at 2"),
        (b"\xff\xfe", "is not UTF-8 text but"),
        (b"a\nb\n", "UNK"),
    ],
)
def test_a_bad_vocabulary_is_one_line(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def multilingual():
    """Lines of real text in some 400 languages."""
    texts = []
    for name, few in (
        ("novels_en/eltec-en", 3),
        ("novels_fr/eltec-fr", 3),
        ("novels_de/eltec-de", 3),
        ("zh_novels_pd/zh-vernacular-novels", 3),
        ("debian_install_guide/install-guide", 19),
        ("ntrex/ntrex", 32),
    ):
        with tarfile.open(SHARED / f"{name}.tar.xz", "r|xz") as archive:
            files = (member for member in archive if member.isfile())
            for member in itertools.islice(files, few):
                data = archive.extractfile(member).read(6000)
                texts.append(data.decode("utf-8", "ignore"))
    with lzma.open(SHARED / "python_docs_parallel/pydocs.jsonl.xz", "rt") as file:
        for line in itertools.islice(file, 0, 4000, 100):
            texts += list(json.loads(line).values())
    with zipfile.ZipFile(SHARED / "nltk_corpora/udhr2.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".txt"):
                texts.append(archive.read(name)[:300].decode("utf-8", "ignore"))
    return [line for text in texts for line in text.split("\n") if line.strip()]


VOCABULARIES = [
    ("bert-base-uncased", True),
    ("bert-base-multilingual-cased", False),
    ("bert-base-chinese", True),
    ("ernie", True),
]


@pytest.mark.shared
@pytest.mark.parametrize("name, lowercase", VOCABULARIES)
def test_real_vocabularies_give_google_s_ids(shared, multilingual, name, lowercase):
    tokens = read_vocabulary(shared / "vocabs" / name / "vocab.txt")
    assert looks_cased(tokens) != lowercase
    assert len(multilingual) > 2000
    check(WordPiece(tokens, lowercase=lowercase), multilingual[::4])


def library_of(shared, name):
    """Hugging Face's own tokenizer; of ERNIE, whose release has none, by its rules.

    And of Chinese BERT, whose file keeps capitals: Google's model is lower-case, and
    its vocabulary has none.
    """
    folder = shared / "vocabs" / name
    if name in ("ernie", "bert-base-chinese"):
        tokens = read_vocabulary(folder / "vocab.txt")
        return BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)})
    packed = (folder / "tokenizer.json.xz").read_bytes()
    return Library.from_str(lzma.decompress(packed).decode())


@pytest.mark.shared
@pytest.mark.parametrize("name, lowercase", VOCABULARIES)
def test_real_vocabularies_give_hugging_face_s_ids(
    shared, multilingual, name, lowercase
):
    """All but where HF's port leaves Google's code: private use, words over 100."""
    tokenizer = load_tokenizer(
        shared / "vocabs" / name / "vocab.txt", lowercase=lowercase
    )
    library = library_of(shared, name)
    theirs = library.encode_batch(multilingual, add_special_tokens=False)
    for line, other in zip(multilingual, theirs, strict=True):
        ids, starts, *_ = tokenizer.encode(line)
        odd = any(unicodedata.category(c) in ("Co", "Cn", "Cc") for c in line)
        if odd or max(map(len, line.split())) > 100:
            continue
        assert ids.tolist() == other.ids, ascii(line)
        assert starts.tolist() == (np.diff(other.word_ids, prepend=-1) != 0).tolist()


SCRIPTS = {
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他們賦有理性和良心。",
    "Japanese": "すべての人間は、生れながらにして自由であり、カタカナも漢字も。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 尊嚴과 권리에 있어 동등하다.",
    "Arabic": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وهم إخوة.",
    "mixed": "The 2008年 北京Olympics كبيرة이다 — naïve “Ünï” ＡＢ１２ 漢字かな!",
}


@pytest.mark.shared
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name, lowercase", VOCABULARIES[1:])
def test_scripts_of_asia_give_the_reference_s_ids(shared, name, lowercase, script):
    """Ideographs apart, kana and hangul not; case and accents kept where it is cased.

    ERNIE's file is read here as it stands, a token and its number a line.
    """
    text = SCRIPTS[script]
    path = shared / "vocabs" / name / "vocab.txt"
    tokenizer = load_tokenizer(path, lowercase=lowercase)
    if name == "ernie":
        numbers = dict(line.split("\t") for line in path.read_text().splitlines())
        assert [int(i) for i in numbers.values()] == list(range(17_964))
        assert tuple(numbers) == tokenizer.tokens
    theirs = library_of(shared, name).encode(text, add_special_tokens=False)
    ids, starts, _, _ = tokenizer.encode(text)
    assert ids.tolist() == theirs.ids
    assert [tokenizer.token(i) for i in ids] == theirs.tokens
    check(tokenizer, [text])
    known = np.mean(ids != tokenizer.id("[UNK]"))
    assert known > 0.85 or (script != "Chinese" and not name.endswith("-cased"))
    words = [tokenizer.token(i) for i, first in zip(ids, starts, strict=True) if first]
    apart = [char for char in text if "\u4e00" <= char <= "\u9fff"]
    assert len([w for w in words if w in apart or w == "[UNK]"]) >= len(apart)


@pytest.mark.shared
def test_a_file_of_hugging_face_is_read_as_it_says(shared, tmp_path):
    folder = shared / "vocabs/bert-base-uncased"
    path = tmp_path / "tokenizer.json"
    path.write_bytes(lzma.decompress((folder / "tokenizer.json.xz").read_bytes()))
    theirs, google_s = load_tokenizer(path), load_tokenizer(folder / "vocab.txt")
    assert theirs.tokens == google_s.tokens and theirs.lowercase
    word = "a" * 150
    assert theirs.encode(word).ids.tolist() == [theirs.id("[UNK]")]
    assert len(google_s.encode(word).ids) > 1


@pytest.mark.shared
def test_ernie_s_vocabulary_is_read(shared):
    tokenizer = load_tokenizer(shared / "vocabs/ernie/vocab.txt")
    assert tokenizer.vocab_size == 17_964
    assert tokenizer.special == SpecialTokens(0, 17_963, 1, 2, 3, 17_964)
    tokens = [tokenizer.token(i) for i in tokenizer.encode("你好，BERT").ids]
    assert tokens == ["你", "好", "，", "be", "##rt"]
