"""Text as it stands: nothing lost or doubled at cuts, the tokens of the whole."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from text.books import HELD_OUT, contents
from tokenizers import pre_tokenizers

from jaxlm.config import RunConfig, TextConfig, gpt2
from jaxlm.text import documents, units
from jaxlm.text.corpus import open_corpus
from jaxlm.text.documents import cut_verbatim, read_fragments
from jaxlm.text.find import find_sources
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.text.texts import texts_of
from jaxlm.text.tokenizers import load_tokenizer, train_tokenizer
from jaxlm.types import Mark, UserError

TEXT = (
    "Chapter 1\n  It was a dark  night;\tand\u00a0stormy.\n«Où?» 夜。\n\n \n"
    "Chapter 2\n\u3000\u3000夜夜。\nSo it   was.  \n\n\n\nThe end"
)
DOCUMENTS = [
    "Chapter 1\n  It was a dark  night;\tand\u00a0stormy.\n«Où?» 夜。\n",
    "Chapter 2\n\u3000\u3000夜夜。\nSo it   was.  \n",
    "The end",
]
CONFIG = RunConfig(
    model=gpt2("tiny", vocab_size=400),
    text=TextConfig(tokenizer="byte_bpe", verbatim=True),
)


def read(*specs, errors="strict"):
    """Documents as lists of pieces."""
    found = []
    recipe = Recipe(verbatim=True, errors=errors)
    for source in find_sources([str(spec) for spec in specs]):
        for fragment in read_fragments(source, verbatim=True):
            if fragment.starts:
                found.append([])
            found[-1] += texts_of(fragment, recipe).texts
    return found


def joined(found):
    return ["".join(pieces) for pieces in found]


BLANK = " \t\r\x0b\x0c\u00a0\u3000"


def documents_of(text):
    """What a document is, in one pattern."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    blank = f"[{BLANK}]*"
    text = re.sub(f"^({blank}\n)+", "", text)
    parts = re.split(f"\n({blank}\n)+", text)[::2]
    parts[:-1] = [part + "\n" for part in parts[:-1]]
    return parts if parts[-1].strip(BLANK) else parts[:-1]


# Pieces.


@pytest.mark.parametrize("limit", [4, 7, 16, 64, 1 << 16])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_documents_are_their_text(tmp_path, monkeypatch, limit, ends):
    monkeypatch.setattr(documents, "FRAGMENT", limit)
    monkeypatch.setattr(documents, "READ", 5)
    text = "\ufeff\n \n" + TEXT
    (tmp_path / "a.txt").write_bytes(text.replace("\n", ends).encode())
    found = read(tmp_path / "a.txt")
    assert joined(found) == DOCUMENTS == documents_of(text)
    assert all(len(p.encode()) <= limit for pieces in found for p in pieces)


alphabet = st.sampled_from(["a", "bc", "夜", "'s", " ", "  ", "\n", "\r\n", "\t", "。"])
texts = st.lists(alphabet | st.sampled_from(["\u3000", "\u00a0", "\r", "\x0b"]))


@settings(max_examples=300, deadline=None)
@given(texts.map("".join), st.sampled_from([4, 5, 9, 40]))
@example("aaaa   \nb", 4)  # what is left of a cut line is blank
@example("aaaa\n\nb", 4)
@example("      \na", 4)
@example("aaa\r\nb", 4)
@example("a \r\nb", 4)
@example("aaaaaa\u3000\r\naaa", 4)
@example("aaaaa\n\u3000\n", 9)
@example("aaaaaaa\n\r\u3000\u3000\n", 9)
@example("\ufeff\na", 4)
@example("a\n ", 40)
@example("a\n\n ", 40)
def test_any_text_is_kept_wherever_it_is_cut(tmp_path_factory, text, limit):
    # A blank line that is longer than a fragment is a document.
    lines = [line for line in text.split("\n") if not line.strip(BLANK)]
    assume(all(len(line.encode()) < limit for line in lines))
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "FRAGMENT", limit)
        patch.setattr(documents, "READ", 3)
        patch.setattr(documents, "AHEAD", 41)
        found = read(path)
    assert joined(found) == documents_of(text)


def test_records_are_documents_blank_lines_and_all(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "FRAGMENT", 16)
    records = [TEXT, "  one\n\n\ntwo ", ["a b", "c "], "", " \n", "\r\n.\r\n"]
    lines = "\n".join(json.dumps({"text": each}) for each in records)
    (tmp_path / "a.jsonl").write_text(lines)
    found = read(tmp_path / "a.jsonl")
    want = [TEXT, "  one\n\n\ntwo ", "a b\nc \n", "", "", "\n.\n"]
    assert joined(found) == want
    assert all(0 < len(p.encode()) <= 16 for pieces in found for p in pieces)


def test_a_fragment_is_found_again_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "FRAGMENT", 9)
    (tmp_path / "a.txt").write_text(TEXT)
    (source,) = find_sources([str(tmp_path)])
    fragments = list(read_fragments(source, verbatim=True))
    assert sum(fragment.starts for fragment in fragments) == 3
    for at, fragment in enumerate(fragments):
        if fragment.starts:
            rest = read_fragments(source, start=fragment.offset, verbatim=True)
            assert list(rest) == fragments[at:]


# Cuts.

words = st.lists(
    st.tuples(
        st.text(st.sampled_from("aé1夜.'s"), min_size=1, max_size=4),
        st.text(st.sampled_from(" \n\t\u3000\u00a0\u2003"), max_size=3),
        st.sampled_from([" ", "\n", "\u3000", "\n\n", "\u3000 "]),
    ),
    min_size=30,
    max_size=50,
)


def pieces_of(text, limit):
    data, at = text.encode(), 0
    while len(data) - at > limit:
        end = cut_verbatim(data[: at + limit + 3], at, at + limit)
        assert at < end <= at + limit
        yield data[at:end].decode()
        at = end
    yield data[at:].decode()


def words_of(text):
    """As GPT-2's pattern cuts, spelled in characters that stand for bytes."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return [word for word, _ in cut(text)]


@settings(max_examples=300, deadline=None)
@given(words, st.integers(40, 55))
def test_pieces_have_the_words_of_the_whole(parts, limit):
    text = "".join(itertools.chain.from_iterable(parts))
    pieces = list(pieces_of(text, limit))
    assert len(pieces) > 1 and "".join(pieces) == text
    assert [word for piece in pieces for word in words_of(piece)] == words_of(text)


def test_cuts_fall_behind_lines_where_they_can():
    lines = [f"Line {i} of some.\n" for i in range(100)]
    pieces = list(pieces_of("".join(lines), 200))
    assert all(piece.endswith(".\n") and piece.startswith("L") for piece in pieces)
    assert len(pieces) == 9
    pieces = list(pieces_of("".join(lines).replace("\n", "\r\n"), 200))
    assert all(piece.endswith(".\r\n") for piece in pieces)


# Vocabularies.


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(
        [TEXT] * 3, TextConfig(tokenizer="byte_bpe", verbatim=True), 300
    )


def test_a_decoder_s_vocabulary_has_one_special_token_behind_the_pieces(trained):
    assert trained.vocab_size == 300 and len(set(trained.tokens)) == 300
    assert trained.tokens[-1] == "<|endoftext|>"
    assert trained.end_of_document == 299 and trained.special is None
    assert trained.tokens[:256] == tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
    assert trained.special_names == {"<|endoftext|>": "<|endoftext|>"}
    assert trained.id("[PAD]") is None and trained.training == {"unused": 0}
    few = train_tokenizer(
        ["A word."] * 3, TextConfig(tokenizer="byte_bpe", verbatim=True), 300
    )
    unused = few.training["unused"]
    assert unused > 9 and few.drawn == few.vocab_size - unused
    assert few.end_of_document == few.drawn - 1
    with pytest.raises(UserError, match="vocab_size = 256 is below 257"):
        train_tokenizer(
            ["A word."], TextConfig(tokenizer="byte_bpe", verbatim=True), 256
        )
    for kind in ("wordpiece", "sentencepiece"):
        with pytest.raises(UserError, match=f"a {kind} vocabulary loses spaces"):
            train_tokenizer(["A word."], TextConfig(tokenizer=kind, verbatim=True), 300)


def test_masked_models_keep_their_five_special_tokens():
    plain = train_tokenizer([TEXT] * 3, TextConfig(tokenizer="byte_bpe"), 300)
    assert plain.special is not None and plain.end_of_document is None


@pytest.mark.oracle
def test_transformers_reads_a_decoder_s_vocabulary(trained, tmp_path):
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.bos_token_id == theirs.eos_token_id == 299 == len(theirs) - 1
    for text in (TEXT, *DOCUMENTS):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == trained.encode(text).ids.tolist()
    ids = theirs(f"{TEXT}<|endoftext|>a")["input_ids"]
    assert ids == trained.encode(f"{TEXT}<|endoftext|>a", specials=True).ids.tolist()


# Corpora.


def novel(chapters, seed):
    rng = np.random.default_rng(seed)
    vocabulary = ["".join(rng.choice(list("aeioubdgst"), 4)) for _ in range(99)]
    chapter = [
        "\n".join(
            " ".join(rng.choice(vocabulary, rng.integers(2, 30))) + "."
            for _ in range(rng.integers(1, 6))
        )
        for _ in range(chapters)
    ]
    return "\n\n".join(chapter) + "\n"


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    for i, chapters in enumerate((40, 3, 60)):
        (folder / f"{i}.txt").write_text(novel(chapters, i))
    (folder / "3.txt").write_text(TEXT)
    prepare(CONFIG, [str(folder)], str(folder / "corpus"), options=HELD_OUT)
    return folder


def stored(corpus):
    """Tokens and marks of each document."""
    tokens, marks = corpus.read(np.array([0]), corpus.num_tokens)
    cuts = corpus.documents[1:, 0]
    return zip(np.split(tokens[0], cuts), np.split(marks[0], cuts), strict=True)


def test_a_document_decodes_to_its_text(books):
    corpus = open_corpus(str(books / "corpus"))
    texts = [
        document
        for file in sorted(books.glob("*.txt"))
        for document in documents_of(file.read_text())
    ]
    end = corpus.end_of_document
    assert (
        end == corpus.manifest.vocab_size - 1 == 399 and corpus.manifest.special is None
    )
    assert corpus.manifest.recipe.verbatim
    starts = []
    for (tokens, marks), text, first in zip(
        stored(corpus), texts, corpus.documents[:, 0], strict=True
    ):
        assert tokens[-1] == end and end not in tokens[:-1]
        assert corpus.tokenizer.decode(tokens[:-1]) == text
        assert tokens[:-1].tolist() == corpus.tokenizer.encode(text).ids.tolist()
        assert marks[-1] == Mark.WORD and marks[0] & Mark.DOCUMENT
        assert not (marks[1:] & Mark.DOCUMENT).any()
        # A sentence is a line with its line end.
        here = np.flatnonzero(marks & Mark.SENTENCE)
        starts += (first + here).tolist()
        lines = [
            corpus.tokenizer.decode(each) for each in np.split(tokens[:-1], here[1:])
        ]
        assert lines == text.splitlines(keepends=True)
    assert corpus.sentences.tolist() == starts


@pytest.mark.parametrize("processes", [1, 3])
def test_blocks_units_cuts_and_processes_change_no_byte(
    books, tmp_path, small_units, processes
):
    directory = str(tmp_path / "corpus")
    prepare(CONFIG, [str(books)], directory, options=HELD_OUT, processes=processes)
    assert contents(directory) == contents(books / "corpus")


def test_one_that_failed_goes_on(books, tmp_path, small_units, monkeypatch):
    tokenise, read = units.tokenise, []

    def failing(fragments, *args):
        read.append(sum(len(fragment.data) for fragment in fragments))
        if len(read) == 6:
            raise KeyboardInterrupt
        return tokenise(fragments, *args)

    monkeypatch.setattr(units, "tokenise", failing)
    directory = str(tmp_path / "corpus")
    with pytest.raises(KeyboardInterrupt):
        prepare(CONFIG, [str(books)], directory, options=HELD_OUT)
    manifest = prepare(CONFIG, [str(books)], directory, options=HELD_OUT)
    before, after = sum(read[:6]), sum(read[6:])
    assert manifest.text_bytes - before < after < manifest.text_bytes - 4000
    assert manifest == open_corpus(str(books / "corpus")).manifest


def test_tokens_of_pieces_are_those_of_the_document(books, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "FRAGMENT", 200)
    tokenizer = str(books / "corpus/tokenizer")
    directory = str(tmp_path / "corpus")
    prepare(CONFIG, [str(books)], directory, options=HELD_OUT, tokenizer=tokenizer)
    monkeypatch.undo()
    whole = open_corpus(str(books / "corpus"))
    for (a, _), (b, _) in zip(
        stored(open_corpus(directory)), stored(whole), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_windows_line_ends_give_the_same_tokens(books, tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    tokenizer, directory = str(books / "corpus/tokenizer"), str(tmp_path / "corpus")
    prepare(CONFIG, [str(tmp_path)], directory, tokenizer=tokenizer)
    texts = [
        open_corpus(directory).tokenizer.decode(tokens[:-1])
        for tokens, _ in stored(open_corpus(directory))
    ]
    assert texts == DOCUMENTS


def test_what_does_not_fit_is_one_line(books, tmp_path):
    directory = str(tmp_path / "corpus")
    with pytest.raises(UserError, match=r"text\.verbatim splits no line"):
        prepare(CONFIG, [str(books)], directory, options=ReadOptions(sentences="lines"))
    train_tokenizer([TEXT], TextConfig(tokenizer="byte_bpe"), 400).save(
        tmp_path / "masked"
    )
    with pytest.raises(UserError, match=r"masked has no <\|endoftext\|>"):
        prepare(CONFIG, [str(books)], directory, tokenizer=str(tmp_path / "masked"))
    assert load_tokenizer(tmp_path / "masked").special is not None
    plain = RunConfig(model=CONFIG.model, text=TextConfig(tokenizer="byte_bpe"))
    corpus = str(books / "corpus")
    with pytest.raises(UserError, match="verbatim is False, was True"):
        prepare(plain, [str(books)], corpus, options=HELD_OUT)
    assert not prepare(plain, [str(books)], directory).recipe.verbatim
