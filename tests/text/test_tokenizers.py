"""Vocabularies: learnt the same everywhere, saved and loaded, read by other clients."""

import itertools
import json
import lzma
import subprocess
import sys

import numpy as np
import pytest

from jaxlm.config import TextConfig
from jaxlm.text.tokenizers import load_tokenizer, train_tokenizer, training
from jaxlm.text.tokenizers.bpe import ByteBpe
from jaxlm.text.tokenizers.tokenizer import LIBRARY_FILE, OPTIONS_FILE, SPECIAL
from jaxlm.types import SpecialTokens, UserError

KINDS = ["wordpiece", "byte_bpe", "sentencepiece"]
ODD = [
    "It's 3 o'clock — “naïve” 你好，世界！ 👩\u200d🔬\u2028end",
    "  two  spaces ",
    "x" * 300,
    "",
]


@pytest.fixture(scope="module")
def text():
    """Some 200 kB of English and Chinese, as lines."""
    from jaxlm.text.sources import SHIPPED

    lines = []
    for name, count in (("austen", 500), ("classics-zh", 150)):
        with lzma.open(SHIPPED / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            lines += [line.strip() for line, _ in zip(file, range(count), strict=False)]
    return [line for line in lines if line]


@pytest.fixture(scope="module", params=KINDS)
def trained(request, text):
    return train_tokenizer(text, TextConfig(tokenizer=request.param), 3000)


TRAIN = """
import json, sys
from jaxlm.config import TextConfig
from jaxlm.text.tokenizers import train_tokenizer
texts = json.load(open(sys.argv[1]))
for kind in ("wordpiece", "byte_bpe", "sentencepiece"):
    print(train_tokenizer(texts, TextConfig(tokenizer=kind), 4000).sha256)
"""


def test_two_processes_learn_the_same_vocabulary(text, tmp_path):
    (tmp_path / "text.json").write_text(json.dumps(text))
    digests = []
    for seed in "12":
        command = [sys.executable, "-c", TRAIN, str(tmp_path / "text.json")]
        environment = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        )
        digests.append(done.stdout.split())
    assert len(digests[0]) == 3 and digests[0] == digests[1]


def test_order_of_the_text_does_not_matter_to_wordpiece(text):
    one, other = (
        train_tokenizer(lines, TextConfig(), 3000) for lines in (text, text[::-1])
    )
    assert one.sha256 == other.sha256


def test_a_vocabulary_has_its_size_and_special_tokens(trained):
    assert trained.vocab_size == len(trained.tokens) == len(set(trained.tokens)) == 3000
    assert trained.tokens[:5] == SPECIAL
    assert trained.special == SpecialTokens(0, 1, 2, 3, 4, 3000)
    assert trained.training["unused"] == 0


def test_text_goes_to_ids_and_back(trained, text):
    for line in [*text[:40], *ODD]:
        ids, word_start, *_ = trained.encode(line)
        assert ids.dtype == np.int32 and word_start.dtype == bool
        assert len(ids) == len(word_start)
        assert (word_start[:1].all() and not len(ids)) or word_start[0]
        again = trained.decode(ids)
        if trained.kind == "byte_bpe":
            assert again == line
        elif trained.kind == "wordpiece" and line.isascii() and line not in ODD:
            want, got = (each.lower().replace(" ", "") for each in (line, again))
            assert got == want
    flat = trained.encode_flat(text)
    alone = [trained.encode(line) for line in text]
    assert np.array_equal(np.concatenate([each.ids for each in alone]), flat.ids)
    starts = np.concatenate([each.word_start for each in alone])
    assert np.array_equal(starts, flat.word_start)
    assert flat.counts.tolist() == [len(each.ids) for each in alone]
    assert flat.ids.min() >= 0 and flat.ids.max() < 3000


def test_words_are_not_cut_in_the_middle(trained):
    ids, starts, *_ = trained.encode("An unmistakable acknowledgement, 你好。")
    tokens = [trained.token(i) for i in ids]
    words, current = [], ""
    for token, start in zip(tokens, starts, strict=True):
        if start and current:
            words.append(current)
            current = ""
        current += token.removeprefix("##")
    assert "acknowledgement" in "|".join(words).replace("Ġ", "").replace("▁", "")
    assert starts.sum() < len(tokens)


def test_special_tokens_in_text(trained):
    ids = trained.encode("One [MASK] two[SEP]", specials=True).ids
    assert np.isin([3, 4], ids).all() and ids[-1] == 3
    assert not np.isin([3, 4], trained.encode("One [MASK] two[SEP]").ids).any()
    assert "[MASK]" in trained.decode(ids) and trained.decode(ids).endswith("[SEP]")


def test_a_saved_tokenizer_is_loaded_as_it_was(trained, tmp_path, text):
    trained.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(trained)
    assert (loaded.sha256, loaded.options) == (trained.sha256, trained.options)
    assert loaded.training == trained.training
    for line in (*text[:20], *ODD):
        assert loaded.encode(line).ids.tolist() == trained.encode(line).ids.tolist()
    trained.save(tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_changed_vocabulary_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    options = json.loads((tmp_path / OPTIONS_FILE).read_text())
    options["sha256"] = "0" * 64
    (tmp_path / OPTIONS_FILE).write_text(json.dumps(options))
    with pytest.raises(UserError, match="not as it was saved"):
        load_tokenizer(tmp_path)
    (tmp_path / OPTIONS_FILE).write_text('{"kind": "morse"}')
    with pytest.raises(UserError, match="no tokenizer kind 'morse'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_text_is_filled_with_unused_entries(kind):
    tokenizer = train_tokenizer(["A few words."] * 3, TextConfig(tokenizer=kind), 500)
    unused = [token for token in tokenizer.tokens if token.startswith("[unused")]
    assert tokenizer.vocab_size == 500
    assert unused == [f"[unused{i}]" for i in range(tokenizer.training["unused"])]
    assert len(unused) > 100 and tokenizer.tokens[-1] == unused[-1]
    ids = tokenizer.encode("A few words. [unused0]").ids
    assert not np.isin([tokenizer.id(token) for token in unused], ids).any()


@pytest.mark.parametrize(
    "kind, message",
    [
        ("wordpiece", "vocab_size = 6 is below 7"),
        ("byte_bpe", "vocab_size = 6 is below 261"),
        ("sentencepiece", "smaller than required_chars"),
    ],
)
def test_a_vocabulary_too_small_is_refused(kind, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(["A few words."], TextConfig(tokenizer=kind), 6)


def test_rare_characters_are_left_out_of_a_small_vocabulary_and_counted(text):
    chinese = [line for line in text if not line.isascii()]
    small = train_tokenizer(chinese, TextConfig(), 600)
    found = small.training
    kept = {token for token in small.tokens if len(token) == 1}
    assert len(kept) == found["characters"] - found["characters_left_out"]
    assert found["characters_left_out"] > 500 and found["unused"] == 0
    counts = {}
    for char in "".join(chinese):
        counts[char] = counts.get(char, 0) + 1
    ideographs = [char for char in counts if "\u4e00" <= char <= "\u9fff"]
    least = min(counts[char] for char in ideographs if char in kept)
    most = max(counts[char] for char in ideographs if char not in kept)
    assert least >= most
    unknown = sum(
        (small.encode(line).ids == small.special.unknown).sum() for line in chinese
    )
    assert unknown == found["words_unknown"]


def test_a_large_vocabulary_keeps_every_ideograph(text):
    """The library's own limit of 1,000 characters would cut Chinese in silence."""
    chinese = [line for line in text if not line.isascii()]
    large = train_tokenizer(chinese, TextConfig(), 8000)
    assert large.training["characters_left_out"] == 0
    assert large.training["characters"] > 1100
    for line in chinese:
        assert large.special.unknown not in large.encode(line).ids


def test_word_counts_are_bounded(monkeypatch):
    monkeypatch.setattr(training, "MOST_RUNS", 100)
    monkeypatch.setattr(training, "MOST_WORDS", 50)
    lines = (f"often here and there rare{i}x" for i in range(30_000))
    words = training.count_words(lines, lowercase=True)
    assert len(words) <= 50
    assert list(words)[:4] == ["and", "here", "often", "there"]
    assert words["often"] == 30_000


def test_no_tokenizer_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.model").write_bytes(b"no model")
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "y.json").write_text('{"model": {"type": "WordLevel", "vocab": {}}}')
    (tmp_path / "z.json").write_text(
        '{"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}}'
    )
    (tmp_path / "x.bin").write_text("")
    for name, message in [
        ("nowhere", "no tokenizer at"),
        ("empty", "it has none of tokenizer.json"),
        ("x.model", "is not a SentencePiece model"),
        ("x.json", "holds no JSON object"),
        ("y.json", "is not read by tokenizers: missing field"),
        ("z.json", r"model\.dropout = 0\.1 is not supported: jaxlm has 0"),
        ("x.bin", "none of .txt"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            load_tokenizer(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_broken_pair_of_bpe_files_is_refused(tmp_path, text):
    train_tokenizer(text, TextConfig(tokenizer="byte_bpe"), 400).save(tmp_path)
    (tmp_path / OPTIONS_FILE).unlink()
    (tmp_path / LIBRARY_FILE).unlink()
    assert load_tokenizer(tmp_path).vocab_size == 400
    merges = (tmp_path / "merges.txt").read_text()
    (tmp_path / "merges.txt").write_text(merges + "zz qq\n")
    with pytest.raises(UserError, match="'zz qq' gives no known token"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text(merges)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({**vocabulary, "the": 9000}))
    with pytest.raises(UserError, match="ids are not 0 to 400"):
        load_tokenizer(tmp_path)
    del vocabulary["Ġ"]
    with pytest.raises(UserError, match="lacks 1 of 256"):
        ByteBpe(list(vocabulary), [])


def gpt2(shared):
    return load_tokenizer(shared / "vocabs/gpt2")


@pytest.mark.shared
def test_gpt2_s_own_files_are_read(shared):
    tokenizer = gpt2(shared)
    assert tokenizer.vocab_size == 50_257 and tokenizer.special is None
    assert tokenizer.end_of_document == 50_256
    # https://github.com/openai/gpt-2: "Hello world" is [15496, 995].
    assert tokenizer.encode("Hello world").ids.tolist() == [15496, 995]
    ids = tokenizer.encode("a<|endoftext|>b").ids
    assert 50_256 not in ids
    assert tokenizer.encode("a<|endoftext|>b", specials=True).ids[1] == 50_256


@pytest.mark.shared
@pytest.mark.oracle
def test_byte_level_ids_equal_openai_s_algorithm(shared, text):
    """OpenAI's encoder.py, from its description: a pattern, then merges by rank."""
    import regex

    tokenizer = gpt2(shared)
    pattern = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable}
    spelled |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}

    def pieces(word):
        parts = [spelled[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            merged, at = [], 0
            while at < len(parts):
                if tuple(parts[at : at + 2]) == best:
                    merged.append("".join(best))
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        return parts

    for line in (*text[::4], *ODD):
        words = [pieces(word) for word in pattern.findall(line)]
        ids, starts, *_ = tokenizer.encode(line)
        assert [tokenizer.token(i) for i in ids] == [p for word in words for p in word]
        first = [i == 0 for word in words for i in range(len(word))]
        assert starts.tolist() == first


@pytest.mark.oracle
def test_transformers_reads_what_is_saved(trained, tmp_path, text):
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == trained.vocab_size
    assert theirs.mask_token_id == trained.special.mask
    assert theirs.pad_token_id == trained.special.pad
    for line in (*text[::10], *ODD):
        got = theirs(line, add_special_tokens=False)["input_ids"]
        assert got == trained.encode(line).ids.tolist(), line
    got = theirs("One [MASK] two", add_special_tokens=False)["input_ids"]
    if trained.kind != "sentencepiece":  # theirs eats or adds a space beside it
        assert got == trained.encode("One [MASK] two", specials=True).ids.tolist()
    if trained.kind == "wordpiece":
        pair = theirs("one", "two")
        cls, sep = trained.special.cls, trained.special.sep
        assert [i for i in pair["input_ids"] if i in (cls, sep)] == [cls, sep, sep]
        assert pair["token_type_ids"][-1] == 1
