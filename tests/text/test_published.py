"""Tokenizers of other people give the ids that transformers and tokenizers give."""

import json
import random
import shutil

import numpy as np
import pytest
from noted import noted
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import Tokenizer as Library

from jaxlm.text.tokenizers import WordPiece, load_tokenizer, train_tokenizer
from jaxlm.text.tokenizers.bpe import ByteBpe
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.text.tokenizers.tokenizer import OPTIONS_FILE, SPECIAL
from jaxlm.types import UserError

SENTENCES = [
    "Ich möchte über das Café reden, naïve Leute!",
    "The CAT sat on the mat's edge; 12345 cats, 3.14 dogs.",
    "北京是中国的首都，the capital. 東京　カタカナ 한국어",
    "مرحبا بالعالم covid-19 Covid COVID",
]
NASTY = [
    *SENTENCES,
    "e\u0301 \u1e69 ﬁ İı ß ΟΔΟΣ \u00ad\u200b\ufeff x\u0000y\u0007z",
    "  two  spaces\t\n\nand\r\nlines \u00a0\u3000\u2028 end ",
    "👩\u200d👩\u200d👧 🇫🇷 😀😀",
    "a<e1>b <e1> COVID covid19 [E] [e] x[E]y <|user|>hi<|user|>",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "x" * 201,
    "",
    " ",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def nasties(count=150, seed=5):
    """Random strings over an alphabet of what tokenizers treat in their own ways."""
    alphabet = [
        *"aeExX 0,.'[]<>_",
        "é",
        "e\u0301",
        "ü",
        "北",
        "ア",
        "م",
        "\u00a0",
        "\u3000",
    ]
    alphabet += ["\n", "\t", "\r", "\x00", "\u200b", "\ufeff", "😀", "\u0301", "İ", "ß"]
    alphabet += ["<e1>", "[E]", "covid", "the", "##", " the", "  ", "[MASK]", "▁"]
    chance = random.Random(seed)
    return [
        "".join(chance.choices(alphabet, k=chance.randrange(12))) for _ in range(count)
    ]


def vocabulary():
    """A BERT's, with both cases, accents and ideographs."""
    letters = sorted(
        {c for text in (*SENTENCES, "xyzéE[]<>_") for c in text} - {" ", "\u3000"}
    )
    pieces = ["the", "cat", "##at", "über", "uber", "möchte", "mochte", "Café", "cafe"]
    return [*WORDS, *letters, *(f"##{each}" for each in letters), *pieces]


def bert(directory, config=None, tokens=None, **files):
    """A directory with a vocab.txt and what stands beside it."""
    directory.mkdir(exist_ok=True)
    lines = "".join(f"{token}\n" for token in tokens or vocabulary())
    (directory / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
    (directory / "config.json").write_text('{"model_type": "bert"}')
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def gpt(directory, config=None, **files):
    """A directory with a vocab.json and merges.txt."""
    from jaxlm.config import TextConfig

    text = TextConfig(tokenizer="byte_bpe", verbatim=True)
    train_tokenizer(SENTENCES * 3, text, 400).save(directory)
    for name in (OPTIONS_FILE, "tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    ids = json.loads((directory / "vocab.json").read_text())
    shuffled = dict(sorted(ids.items()))  # ids out of order
    (directory / "vocab.json").write_text(json.dumps(shuffled))
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def added(content, id=None, **flags):
    """An added token as files have it."""
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    usual |= {"content": content, "normalized": True, **flags}
    return usual if id is None else {"id": id, **usual}


END = "<|endoftext|>"
COUNT = len(vocabulary())
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


def equal_ids(theirs, ours, texts, **options):
    """Both find the same ids, where special tokens count."""
    for text in texts:
        want = theirs(text, add_special_tokens=False, **options)["input_ids"]
        assert ours.encode(text, specials=True).ids.tolist() == want, ascii(text)


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


def bert_json(**rules):
    library = Library(
        models.WordPiece({t: i for i, t in enumerate(vocabulary())}, unk_token="[UNK]")
    )
    library.normalizer = normalizers.BertNormalizer(**rules)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(WORDS)
    return library


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


def byte_pieces(*, prefix=False, regex=True):
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(prefix, use_regex=regex)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    library.train_from_iterator(SENTENCES * 3, trainer)
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


def test_a_class_that_overrides_the_file_is_named(tmp_path):
    bert_json(lowercase=False).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer"}'
    )
    ours, notes = noted(load_tokenizer, tmp_path)
    assert not ours.lowercase and "BertTokenizer has true" in notes[0]


def test_case_is_that_of_the_files_and_else_a_guess_that_is_said(tmp_path):
    chinese = [*WORDS, *"北京是中国的首都"]
    uncut = bert(tmp_path, {"do_lower_case": False}, chinese)
    ours, notes = noted(load_tokenizer, uncut)
    assert isinstance(ours, WordPiece) and not ours.lowercase and notes == ()
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).lowercase
    ours, notes = noted(load_tokenizer, bert(tmp_path))
    assert not ours.lowercase and "keeps its case" in notes[0]


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


def test_text_that_the_library_cannot_encode_is_one_line(tmp_path):
    library = Library(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
    library.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.encode("a").ids.tolist() == [0]
    with pytest.raises(UserError, match=r"cannot encode 'x': .*Missing \[UNK\]"):
        ours.encode("x")
