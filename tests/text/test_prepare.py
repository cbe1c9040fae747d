"""Text → a corpus: what it holds, what is held out, what is refused."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from text.books import CONFIG, HELD_OUT, VOCABULARY, contents, everything, novel

from jaxlm.config import BertConfig, RunConfig, TextConfig
from jaxlm.text import documents, units
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.text.sources import Source
from jaxlm.text.tokenizers import load_tokenizer, train_tokenizer
from jaxlm.types import Mark, UserError


def test_the_corpus_is_what_the_text_says(books, corpus):
    """Against the tokenizer and the splitter, sentence by sentence."""
    import sentencex

    tokens, marks, sentences, documents = [], [], [], []
    for file in sorted(books.glob("*.txt")):
        for chapter in file.read_text().strip().split("\n\n"):
            documents.append(len(tokens))
            start = Mark.DOCUMENT
            for paragraph in chapter.split("\n"):
                for sentence in sentencex.segment("en", paragraph):
                    encoded = corpus.tokenizer.encode(sentence)
                    sentences.append(len(tokens))
                    tokens += encoded.ids.tolist()
                    begins = [Mark.WORD if w else 0 for w in encoded.word_start]
                    begins[0] |= Mark.SENTENCE | start
                    start = 0
                    marks += begins
    got_tokens, got_marks = everything(corpus)
    assert got_tokens.tolist() == tokens
    assert got_marks.tolist() == [int(mark) for mark in marks]
    assert corpus.sentences.tolist() == sentences
    assert corpus.documents[:, 0].tolist() == documents
    assert (corpus.documents[:, 1] == 0).all()
    manifest = corpus.manifest
    assert manifest.tokens == len(tokens) and manifest.sentences == len(sentences)
    assert manifest.documents == len(documents) == 103
    assert manifest.text_bytes == pytest.approx(
        sum(file.stat().st_size for file in books.glob("*.txt")), rel=0.01
    )
    assert manifest.languages == ("en",) and manifest.token_dtype == "uint16"
    assert manifest.vocab_size == VOCABULARY == corpus.tokenizer.vocab_size
    assert manifest.tokenizer_sha256 == corpus.tokenizer.sha256
    assert manifest.special == corpus.tokenizer.special


def test_the_manifest_names_sources_by_their_digests(books, corpus):
    for source, file in zip(
        corpus.manifest.sources, sorted(books.glob("*.txt")), strict=True
    ):
        data = file.read_bytes()
        assert source["name"] == str(file) and source["bytes"] == len(data)
        assert source["sha256"] == hashlib.sha256(data).hexdigest()


def test_held_out_documents_are_chosen_by_content(books, corpus, tmp_path):
    held = corpus.documents[:, 2] == 1
    assert 8 <= held.sum() == corpus.manifest.held_out <= 35  # 0.2 of 103
    # Other files before it, another vocabulary, another name: the same choice.
    (tmp_path / "a.txt").write_text(novel(5, seed=9))
    shutil.copy(books / "2.txt", tmp_path / "b.txt")
    config = RunConfig(model=BertConfig(vocab_size=500))
    prepare(config, [str(tmp_path)], str(tmp_path / "corpus"), options=HELD_OUT)
    other = open_corpus(str(tmp_path / "corpus"))
    assert (other.documents[-60:, 2] == corpus.documents[-60:, 2]).all()
    config = RunConfig(model=BertConfig(vocab_size=500), seed=1)
    prepare(config, [str(tmp_path)], str(tmp_path / "seed1"), options=HELD_OUT)
    other = open_corpus(str(tmp_path / "seed1"))
    assert (other.documents[-60:, 2] != corpus.documents[-60:, 2]).any()


def test_a_vocabulary_is_not_learnt_from_held_out_documents(tmp_path):
    odd = [f"odd{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(50)]
    texts = [f"Common words here. Here {(word + ' ') * 4}.\n\n" for word in odd]
    (tmp_path / "a.txt").write_text("".join(texts))
    prepare(
        CONFIG,
        [str(tmp_path)],
        str(tmp_path / "corpus"),
        options=ReadOptions(holdout=0.3),
    )
    corpus = open_corpus(str(tmp_path / "corpus"))
    held = np.flatnonzero(corpus.documents[:, 2])
    assert len(held) > 5
    for i, word in enumerate(odd):
        assert (corpus.tokenizer.id(word) is None) == (i in held)


@pytest.mark.parametrize("text", [b"", b" \n\n \r\n", b"\x00\x01", "\ufeff".encode()])
def test_text_without_a_word_is_refused(books, tmp_path, text):
    (tmp_path / "empty.txt").write_bytes(text)
    source, directory = str(tmp_path / "empty.txt"), str(tmp_path / "corpus")
    with pytest.raises(UserError, match=r"there is no text (in|to learn)"):
        prepare(CONFIG, [source], directory)
    tokenizer = str(books / "corpus/tokenizer")
    with pytest.raises(UserError, match=r"there is no text in .*empty\.txt"):
        prepare(CONFIG, [source], directory, tokenizer=tokenizer)


def test_documents_and_sentences_without_tokens_leave_no_trace(books, tmp_path):
    text = "\x01\x02\n\nEmma.\n\x03\nHere.\n\n\x04\n\n\x05\nThere.\n\n\x06\n"
    (tmp_path / "a.txt").write_text(text)
    for block in (1, 1 << 20):
        directory = str(tmp_path / f"corpus{block}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(units, "BLOCK", block)
            manifest = prepare(
                CONFIG,
                [str(tmp_path / "a.txt")],
                directory,
                options=ReadOptions(sentences="lines"),
                tokenizer=str(books / "corpus/tokenizer"),
            )
        assert (manifest.documents, manifest.sentences) == (2, 3)
        corpus = open_corpus(directory)
        _, marks = everything(corpus)
        assert np.flatnonzero(marks & Mark.DOCUMENT).tolist() == (
            corpus.documents[:, 0].tolist()
        )
        starts = np.flatnonzero(marks & Mark.SENTENCE).tolist()
        assert starts == corpus.sentences.tolist()
        assert corpus.documents[1, 0] == corpus.sentences[2]


def test_a_document_may_start_a_block_before_its_first_token(books, tmp_path):
    (tmp_path / "a.txt").write_text("Emma.\n\n" + "\x05" * 10 + "\nThere.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "FRAGMENT", 12)
        patch.setattr(units, "BLOCK", 1)
        manifest = prepare(
            CONFIG,
            [str(tmp_path / "a.txt")],
            str(tmp_path / "corpus"),
            tokenizer=str(books / "corpus/tokenizer"),
        )
    corpus = open_corpus(str(tmp_path / "corpus"))
    assert manifest.documents == 2
    assert corpus.documents[:, 0].tolist() == corpus.sentences.tolist()
    _, marks = everything(corpus)
    assert (marks & Mark.DOCUMENT).sum() == 2


def test_an_end_of_document_token_is_stored_where_the_vocabulary_has_one(tmp_path):
    trained = train_tokenizer(
        ["One two three."] * 3, TextConfig(tokenizer="byte_bpe"), 299
    )
    tokens = (*trained.tokens, "<|endoftext|>")
    type(trained)(tokens, trained.merges).save(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("One.\nTwo.\n\n\nThree.\n\nOne.")
    config = RunConfig(model=BertConfig(vocab_size=300))
    found = []
    for block in (1, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(units, "BLOCK", block)
            patch.setattr(units, "UNIT", block)
            directory = str(tmp_path / f"corpus{block}")
            manifest = prepare(
                config,
                [str(tmp_path / "a.txt")],
                directory,
                tokenizer=str(tmp_path / "tokenizer"),
            )
        found.append(open_corpus(directory))
        assert manifest.end_of_document == 299
    for corpus in found:
        row, marks = everything(corpus)
        assert corpus.tokenizer.decode(row) == (
            "One.Two.<|endoftext|>Three.<|endoftext|>One.<|endoftext|>"
        )
        assert marks[row == 299].tolist() == [Mark.WORD] * 3
        ends = np.flatnonzero(row == 299)
        assert corpus.documents[:, 0].tolist() == [0, *(ends[:-1] + 1)]
        starts = np.flatnonzero(marks & Mark.SENTENCE)
        assert corpus.sentences.tolist() == starts.tolist() and len(starts) == 4
    assert found[0].sha256 == found[1].sha256


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path, books):
    tokenizer = load_tokenizer(books / "corpus/tokenizer")
    many = [f"[unused{i}]" for i in range(70_000 - VOCABULARY)]
    type(tokenizer)((*many, *tokenizer.tokens), lowercase=True).save(tmp_path / "t")
    config = RunConfig(model=BertConfig(vocab_size=70_000))
    source, directory = str(books / "1.txt"), str(tmp_path / "corpus")
    prepare(config, [source], directory, tokenizer=str(tmp_path / "t"))
    corpus = open_corpus(directory)
    row, _ = everything(corpus)
    assert corpus.manifest.token_dtype == "uint32" and row.max() > 1 << 16


def test_a_vocabulary_of_another_size_is_refused(books, tmp_path):
    config = RunConfig(model=BertConfig(vocab_size=1000))
    tokenizer = str(books / "corpus/tokenizer")
    with pytest.raises(UserError, match=r"600 entries.*--model\.vocab_size 600"):
        prepare(config, [str(books)], str(tmp_path / "c"), tokenizer=tokenizer)


def test_of_a_hundred_documents_two_are_held_out(tmp_path, small_units):
    documents = [f"Document {i} is here.\nIt ends.\n" for i in range(150)]
    (tmp_path / "a.txt").write_text("\n".join(documents))

    def made(name, holdout, processes=1):
        return prepare(
            CONFIG,
            [str(tmp_path / "a.txt")],
            str(tmp_path / name),
            options=ReadOptions(holdout=holdout),
            processes=processes,
        )

    # Those that are the first to be held out at any share.
    hashes = [units.hashed(each.encode(), 0, "holdout") for each in documents]
    assert sum(each < 1e-3 for each in hashes) < 2 < sum(each < 0.1 for each in hashes)
    manifest = made("few", 1e-3)
    split = open_corpus(str(tmp_path / "few")).documents[:, 2]
    assert np.flatnonzero(split).tolist() == sorted(np.argsort(hashes)[:2].tolist())
    assert manifest.held_out == 2 and "held out" not in " ".join(manifest.notes)
    assert made("two", 1e-3, processes=2) == manifest
    assert contents(tmp_path / "few") == contents(tmp_path / "two")
    # A corpus that was made before, by the share alone.
    enough = made("enough", 0.1)
    assert enough.recipe.held_below == 0 and enough.held_out > 2
    path = tmp_path / "few/manifest.json"
    content = json.loads(path.read_text())
    del content["recipe"]["held_below"], content["sha256"]
    path.write_text(json.dumps(content))
    assert made("few", 1e-3).sha256 == manifest.sha256
    assert made("none", 0.0).held_out == 0


def test_units_end_with_documents():
    source = Source("s", "txt", ("s",))

    def fragment(offset, starts):
        return documents.Fragment(source, offset, starts, b"x" * 100, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "BLOCK", 200)
        patch.setattr(units, "UNIT", 300)
        starts = [True, False, False, False, True, True, True, True]
        text = [(0, fragment(100 * i, start)) for i, start in enumerate(starts)]
        blocks = list(units.in_blocks(text, 1))
    assert [len(block) for block, _ in blocks] == [2, 2, 2, 1, 1]
    assert [follows for _, follows in blocks] == [
        None,
        (0, 400),
        None,
        (0, 700),
        (1, 0),
    ]


def test_text_is_prepared_without_jax():
    code = """
import sys
import jaxlm.text.corpus, jaxlm.text.prepare, jaxlm.text.tokenizers
assert not {"jax", "flax", "tensorflow_datasets"} & set(sys.modules)
import jaxlm.text.units
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, jaxlm.text.units; assert 'tensorstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
