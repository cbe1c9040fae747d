"""Directories of other people: a vocabulary and what the files beside it say."""

import json
import shutil

import pytest
from noted import noted
from text.published import (
    COUNT,
    END,
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
from tokenizers import models, normalizers, pre_tokenizers

from jaxlm.text.tokenizers import WordPiece, load_tokenizer
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.types import UserError

BERTS = {
    "plain": ({"do_lower_case": True},),
    "cased": ({"do_lower_case": False},),
    "accents kept": ({"do_lower_case": True, "strip_accents": False},),
    "accents stripped": ({"do_lower_case": False, "strip_accents": True},),
    "ideographs whole": ({"do_lower_case": True, "tokenize_chinese_chars": False},),
    "added": (
        {"do_lower_case": True},
        {"added_tokens": {"covid": COUNT, "<e1>": COUNT + 1}},
    ),
    "added, special": (
        {"do_lower_case": False, "additional_special_tokens": ["[E]", "<e1>"]},
        {"added_tokens": {"[E]": COUNT, "<e1>": COUNT + 1}},
    ),
    "decoder of added": (
        {
            "do_lower_case": True,
            "tokenizer_class": "BertTokenizer",
            "added_tokens_decoder": {
                **{
                    str(i): added(w, normalized=False, special=True)
                    for i, w in enumerate(WORDS)
                },
                str(COUNT): added("<e1>", lstrip=True),
                str(COUNT + 1): added("covid", single_word=True),
            },
        },
    ),
    "mask strips": (
        {
            "do_lower_case": True,
            "mask_token": "<mask>",
            "added_tokens_decoder": {str(COUNT): added("<mask>", lstrip=True)},
        },
    ),
    "own names": (
        {"do_lower_case": True},
        {"special_tokens_map": {"unk_token": "the", "mask_token": "cat"}},
    ),
}
GPTS = {
    "plain": (None,),
    "prefix": ({"add_prefix_space": True},),
    "pad added": ({"pad_token": "[PAD]"}, {"added_tokens": {"[PAD]": 400}}),
    "pad named": (None, {"special_tokens_map": {"pad_token": "[PAD]"}}),
    "added": ({}, {"added_tokens": {"<|user|>": 400, " the": 401, "covid": 402}}),
    "named, strips": (
        {
            "unk_token": "[E]",
            "added_tokens_decoder": {"400": added("[E]", lstrip=True, special=True)},
        },
    ),
    "added, strips": (
        {
            "added_tokens_decoder": {
                "399": added(END, special=True),
                "400": added("<e1>", lstrip=True, rstrip=True),
            }
        },
    ),
}  # fmt: skip

WORDPIECE = models.WordPiece(
    {token: i for i, token in enumerate(vocabulary())},
    unk_token="[UNK]",
    max_input_chars_per_word=5,
)


@pytest.mark.oracle
@pytest.mark.parametrize("family, name", [
    *(("bert", name) for name in BERTS), *(("gpt", name) for name in GPTS)
])  # fmt: skip
def test_a_directory_without_tokenizer_json_is_as_in_transformers(
    family, name, tmp_path
):
    from transformers import AutoTokenizer

    config, *files = (BERTS if family == "bert" else GPTS)[name]
    make = bert if family == "bert" else gpt
    directory = make(tmp_path / "theirs", config, **(files[0] if files else {}))
    ours = load_tokenizer(directory)
    theirs = AutoTokenizer.from_pretrained(directory)
    assert ours.vocab_size == len(theirs)
    assert isinstance(ours, LibraryTokenizer) == (
        name not in ("plain", "cased") and (family, name) != ("gpt", "prefix")
    )
    texts = [*NASTY, *nasties()]
    if name in (
        "own names",
        "mask strips",
    ):  # "[MASK]" means the mask here, whatever it is called
        texts = [text for text in texts if "[MASK]" not in text]
    equal_ids(theirs, ours, texts)
    ours.save(tmp_path / "saved")
    for each in (load_tokenizer(tmp_path / "saved"), ours.grown(ours.vocab_size + 9)):
        assert [each.encode(t).ids.tolist() for t in texts] == [
            ours.encode(t).ids.tolist() for t in texts
        ]
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert len(again) == len(theirs)
    equal_ids(again, ours, texts)
    assert again("a", "b")["input_ids"] == theirs("a", "b")["input_ids"]


def test_vocabularies_as_people_write_them(tmp_path):
    """A byte-order mark, Windows, blanks behind entries and as entries, ids apart."""
    tokens = [*WORDS, "the ", "\u3000", "cat\u3000", "\u00a0"]
    text = "\ufeff" + "\r\n".join(tokens) + "\r\n\r\n"
    (tmp_path / "vocab.txt").write_bytes(text.encode())
    ours = load_tokenizer(tmp_path / "vocab.txt")
    assert ours.tokens == (*WORDS, "the", "\u3000", "cat", "\u00a0")
    assert ours.special is not None and ours.encode("the cat").ids.tolist() == [5, 7]
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").tokens == ours.tokens
    numbered = [
        f"{token}\t{8 - i}" for i, token in enumerate([*WORDS, "a", "b", "c", "d"])
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(numbered))
    assert load_tokenizer(tmp_path / "vocab.txt").tokens[:4] == ("d", "c", "b", "a")
    (tmp_path / "vocab.txt").write_text("\n".join(numbered[:-1]))
    with pytest.raises(UserError, match="ids are not 0 to 7"):
        load_tokenizer(tmp_path / "vocab.txt")


@pytest.mark.parametrize("key, value, only", [
    ("never_split", ["the"], "[]"),
    ("do_basic_tokenize", False, "true"),
    ("split_special_tokens", True, "false"),
    ("add_bos_token", True, "false"),
    ("word_tokenizer_type", "mecab", '"basic"'),
    ("auto_map", {"AutoTokenizer": ["x.Y", None]}, "{}"),
])  # fmt: skip
def test_what_is_not_done_is_refused_by_name_with_its_value(key, value, only, tmp_path):
    for make in (bert, gpt):
        with pytest.raises(UserError) as caught:
            load_tokenizer(make(tmp_path / make.__name__, {key: value}))
        said = f"{key} = {json.dumps(value)} is not supported: jaxlm has {only}"
        assert str(caught.value).endswith(f"tokenizer_config.json: {said}")


def test_keys_that_change_nothing_pass_and_unknown_ones_are_named(tmp_path):
    usual = {
        "model_max_length": 512, "name_or_path": "x", "special_tokens_map_file": None,
        "tokenizer_class": "BertTokenizer", "clean_up_tokenization_spaces": True,
        "never_split": None, "do_basic_tokenize": True, "padding_side": "left",
        "do_lower_case": True, "backend": "tokenizers",
    }  # fmt: skip
    assert noted(load_tokenizer, bert(tmp_path, usual))[1] == ()
    odd = bert(tmp_path, {**usual, "frobnicate": 7, "nothing": None, "no": False})
    said = "tokenizer_config.json: jaxlm does not know frobnicate = 7"
    assert noted(load_tokenizer, odd)[1] == (said,)


@pytest.mark.parametrize("make, config, message", [
    (bert, {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer is"),
    (gpt, {"tokenizer_class": "CodeGenTokenizer"}, "CodeGenTokenizer is not supported"),
    (bert, {"added_tokens_decoder": {"999": added("x")}}, "'x' has id 999, by its"),
])  # fmt: skip
def test_files_that_say_too_much_are_refused(make, config, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_tokenizer(make(tmp_path, config))


@pytest.mark.parametrize("library, key, value", [
    (bert_json, "do_lower_case", False),
    (bert_json, "strip_accents", False),
    (bert_json, "tokenize_chinese_chars", False),
    (byte_pieces, "add_prefix_space", True),
])  # fmt: skip
def test_files_that_contradict_each_other_are_refused(library, key, value, tmp_path):
    library().save(str(tmp_path / "tokenizer.json"))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({key: value}))
    with pytest.raises(
        UserError, match=rf"{key} is .* here and .* in tokenizer_config"
    ):
        load_tokenizer(tmp_path)
    config.write_text(json.dumps({key: not value}))
    assert noted(load_tokenizer, tmp_path)[1] == ()
    # Without transformers' class the file is alone.
    config.write_text(
        json.dumps({key: value, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    assert noted(load_tokenizer, tmp_path)[1] == ()


def bert_with(**parts):
    library = bert_json()
    for name, part in parts.items():
        setattr(library, name, part)
    return library


@pytest.mark.oracle
@pytest.mark.parametrize("library, model, said", [
    (bert_json(), "bert", ""),
    (bert_json(lowercase=False), "ernie", "BertTokenizer has true"),
    (bert_with(normalizer=normalizers.NFD()), "bert", "follows its normalizer;"),
    (bert_with(pre_tokenizer=pre_tokenizers.Whitespace()), "bert", "its pre_tokenizer"),
    (bert_with(model=WORDPIECE), "bert", "follows its model; transformers' BertTok"),
    (byte_pieces(), "gpt2", ""),
    (byte_pieces(prefix=True), "gpt2", "GPT2Tokenizer has false"),
    (byte_pieces(regex=False), "gpt2", "its pre_tokenizer; transformers' GPT2Token"),
])  # fmt: skip
def test_rules_that_transformers_class_overrides_are_named(
    library, model, said, tmp_path
):
    """Without a named class, its class is that of the model type."""
    from transformers import AutoTokenizer

    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    config = tmp_path / "tokenizer_config.json"
    for kind in (None, "PreTrainedTokenizerFast"):
        if kind:
            config.write_text(json.dumps({"tokenizer_class": kind}))
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        ours, notes = noted(load_tokenizer, tmp_path)
        assert len(notes) == bool(said and not kind)
        assert "".join(notes).find(said) >= 0 or kind
        plain = [text for text in NASTY if "[MASK]" not in text]
        want = theirs(plain, add_special_tokens=False)["input_ids"]
        found = [ours.encode(text, specials=True).ids.tolist() for text in plain]
        assert (found == want) == (not notes)


def test_a_class_with_rules_of_its_own_is_named(tmp_path):
    bert_json().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "AlbertTokenizer"}'
    )
    _, notes = noted(load_tokenizer, tmp_path)
    assert len(notes) == 1 and "AlbertTokenizer may have its own" in notes[0]


def test_case_is_that_of_the_files_and_else_a_guess_that_is_said(tmp_path):
    chinese = [*WORDS, *"北京是中国的首都"]
    uncut = bert(tmp_path, {"do_lower_case": False}, chinese)
    ours, notes = noted(load_tokenizer, uncut)
    assert isinstance(ours, WordPiece) and not ours.lowercase and notes == ()
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).lowercase
    ours, notes = noted(load_tokenizer, bert(tmp_path))
    assert not ours.lowercase and "keeps its case" in notes[0]


@pytest.mark.oracle
def test_what_transformers_saves_is_read(tmp_path):
    """Its tokenizer after tokens were added, as its own files have it."""
    from transformers import AutoTokenizer

    for make, extra in ((bert, ["<e1>"]), (gpt, ["<|user|>"])):
        directory = make(tmp_path / make.__name__, {"pad_token": "[PAD]"})
        theirs = AutoTokenizer.from_pretrained(directory)
        theirs.add_tokens(["covid"])
        theirs.add_special_tokens({"additional_special_tokens": extra})
        shutil.rmtree(directory)
        theirs.save_pretrained(directory)
        ours = load_tokenizer(directory)
        assert ours.vocab_size == len(theirs)
        equal_ids(theirs, ours, [*NASTY, *nasties(seed=6)])


@pytest.mark.parametrize(
    "file, content",
    [
        ("tokenizer_config", {"do_lower_case": "yes"}),
        ("tokenizer_config", {"pad_token": 3}),
        ("tokenizer_config", {"mask_token": {"contents": "x"}}),
        ("tokenizer_config", {"additional_special_tokens": 4}),
        ("tokenizer_config", {"added_tokens_decoder": [1]}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "y"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"9": {"content": 4}}}),
        ("tokenizer_config", {"tokenizer_class": ["BertTokenizer"]}),
        ("added_tokens", {"<e1>": "last"}),
        ("added_tokens", {"<e1>": None}),
        ("special_tokens_map", {"unk_token": [1]}),
    ],
)
def test_damage_beside_the_vocabulary_is_one_line(file, content, tmp_path):
    for make in (bert, gpt):
        directory = make(tmp_path / make.__name__, **{file: content})
        with pytest.raises(UserError) as caught:
            load_tokenizer(directory)
        assert "\n" not in str(caught.value) and str(directory) in str(caught.value)
