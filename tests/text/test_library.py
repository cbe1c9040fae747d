"""A tokenizer.json is run as it is, whatever is in it."""

import json

import numpy as np
import pytest
from text.published import (
    COUNT,
    NASTY,
    WORDS,
    added,
    bert,
    bert_json,
    byte_pieces,
    equal_ids,
    gpt,
    nasties,
    vocabulary,
)
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.text.tokenizers.bpe import ByteBpe
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.text.tokenizers.tokenizer import OPTIONS_FILE, SPECIAL
from jaxlm.types import UserError


def other_pieces():
    """WordPiece with its own unknown token, prefix, normaliser and pre-tokeniser."""
    tokens = [*WORDS, "<?>", *(t.replace("##", "@@") for t in vocabulary()[5:])]
    library = Library(models.WordPiece(
        {t: i for i, t in enumerate(tokens)}, unk_token="<?>",
        continuing_subword_prefix="@@", max_input_chars_per_word=20,
    ))  # fmt: skip
    library.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]
    )
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True),
    ])  # fmt: skip
    library.add_special_tokens(WORDS)
    return library


def split_pieces():
    """The pattern of GPT-4: digits by threes."""
    library = byte_pieces(regex=False)
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ])  # fmt: skip
    return library


def with_tokens(library, *tokens):
    library.add_tokens(
        [
            AddedToken(**added(*each)) if isinstance(each, tuple) else each
            for each in tokens
        ]
    )
    return library


def unigram(**metaspace):
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0)]
    pieces += [(c, -3.0) for c in "abcdehilmnorstuxCE0123é北京"] + [("cat", -1.5)]
    library = Library(models.Unigram(pieces, 0, False))
    library.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    library.decoder = decoders.Metaspace()
    return library


def padded_and_cut():
    """With the padding and truncation that sentence-transformers leaves in files."""
    library = bert_json()
    library.enable_truncation(8)
    library.enable_padding(length=8)
    return library


LIBRARIES = {
    "bert": bert_json,
    "bert, cased": lambda: bert_json(lowercase=False),
    "bert, accents": lambda: bert_json(strip_accents=False),
    "bert, controls": lambda: bert_json(clean_text=False, handle_chinese_chars=False),
    "bert, added": lambda: with_tokens(bert_json(), "covid", "<e1>", "new york"),
    "bert, cut and padded": padded_and_cut,
    "other pieces": other_pieces,
    "bytes": byte_pieces,
    "bytes, prefix": lambda: byte_pieces(prefix=True),
    "bytes, no words": lambda: byte_pieces(regex=False),
    "bytes, added": lambda: with_tokens(byte_pieces(), "<|user|>", "covid", " the"),
    "bytes, split": split_pieces,
    "unigram": unigram,
    "unigram, whole": lambda: unigram(split=False),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_tokenizer_json_is_run_as_it_is(name, tmp_path):
    library = LIBRARIES[name]()
    path = tmp_path / "tokenizer.json"
    library.save(str(path))
    ours = load_tokenizer(tmp_path)
    library.no_truncation()
    library.no_padding()
    texts = [*NASTY, *nasties()]
    found = ours.encode_flat(texts)
    at = 0
    for text, count in zip(texts, found.counts, strict=True):
        theirs = library.encode(text, add_special_tokens=False)
        assert ours.encode(text, specials=True).ids.tolist() == theirs.ids, ascii(text)
        if not any(each in text for each in WORDS):
            assert found.ids[at : at + count].tolist() == theirs.ids, ascii(text)
            if name != "unigram, whole":
                words = np.diff(theirs.word_ids, prepend=-1) != 0
                starts = found.word_start[at : at + count]
                assert starts.tolist() == words.tolist(), ascii(text)
        else:  # plain text
            assert (
                not {0, 2, 3, 4} & {*found.ids[at : at + count]} or "bert" not in name
            )
        assert ours.decode(theirs.ids) == library.decode(
            theirs.ids, skip_special_tokens=False
        )
        at += count
    ours.save(tmp_path / "saved")
    assert (tmp_path / "saved/tokenizer.json").read_bytes() == path.read_bytes()
    again = load_tokenizer(tmp_path / "saved")
    assert (again.sha256, again.tokens) == (ours.sha256, ours.tokens)


def test_a_word_begins_behind_white_space_where_nothing_cuts_words(tmp_path):
    unigram(split=False).save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    ids, starts, *_ = ours.encode("the cat the")
    assert [ours.token(i) for i, s in zip(ids, starts, strict=True) if s] == [
        "▁the",
        "▁",
        "▁the",
    ]


def test_gpt_2_s_rules_have_one_digest_in_any_file(tmp_path):
    """A corpus that was made by the pair of files is continued by tokenizer.json."""
    directory = gpt(tmp_path / "pair")
    pair = load_tokenizer(directory)
    assert isinstance(pair, ByteBpe)
    pair.save(tmp_path / "json")
    (tmp_path / "json" / OPTIONS_FILE).unlink()
    ours = load_tokenizer(tmp_path / "json")
    assert isinstance(ours, LibraryTokenizer) and ours.sha256 == pair.sha256
    assert (
        load_tokenizer(gpt(tmp_path / "b", {"add_prefix_space": True})).sha256
        != pair.sha256
    )


def test_special_tokens_are_characters_in_plain_text(tmp_path):
    ours = load_tokenizer(bert(tmp_path, {}, added_tokens={"<e1>": COUNT}))
    assert isinstance(ours, LibraryTokenizer)
    plain, asked = (
        ours.encode("the [MASK] <e1>", specials=s).ids for s in (False, True)
    )
    assert 4 not in plain and plain[-1] == COUNT
    assert asked.tolist() == [ours.id("the"), 4, COUNT]


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2],
    lambda text: "",
    lambda text: "[]",
    lambda text: text.replace('"vocab"', '"vocal"'),
    lambda text: text.replace('"content"', '"context"'),
    lambda text: json.dumps({**json.loads(text), "added_tokens": 3}),
    lambda text: json.dumps({**json.loads(text), "normalizer": {"type": "Moon"}}),
])  # fmt: skip
def test_a_damaged_tokenizer_json_is_one_line(damage, tmp_path):
    bert_json().save(str(tmp_path / "tokenizer.json"))
    load_tokenizer(tmp_path).save(tmp_path / "saved")
    for directory in (tmp_path, tmp_path / "saved"):
        path = directory / "tokenizer.json"
        path.write_text(damage(path.read_text()))
        with pytest.raises(UserError) as caught:
            load_tokenizer(directory)
        assert "\n" not in str(caught.value)


@pytest.mark.oracle
@pytest.mark.shared
def test_bert_s_own_file_gives_transformers_ids(shared, tmp_path):
    import lzma

    from transformers import AutoTokenizer

    for name, lower in (
        ("bert-base-uncased", True),
        ("bert-base-multilingual-cased", False),
    ):
        directory = tmp_path / name
        directory.mkdir()
        packed = (shared / "vocabs" / name / "tokenizer.json.xz").read_bytes()
        (directory / "tokenizer.json").write_bytes(lzma.decompress(packed))
        (directory / "config.json").write_text('{"model_type": "bert"}')
        config = {"do_lower_case": lower, "model_max_length": 512}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        ours = load_tokenizer(directory)
        assert ours.special is not None and ours.tokens[ours.special.mask] == SPECIAL[4]
        equal_ids(AutoTokenizer.from_pretrained(directory), ours, [*NASTY, *nasties()])


def test_text_that_the_library_cannot_encode_is_one_line(tmp_path):
    library = Library(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
    library.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.encode("a").ids.tolist() == [0]
    with pytest.raises(UserError, match=r"cannot encode 'x': .*Missing \[UNK\]"):
        ours.encode("x")
