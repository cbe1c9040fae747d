"""A corpus on disk: how it is read, and how damage is noticed."""

import hashlib
import json
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from text.books import contents, everything

from jaxlm.text import corpus as corpora
from jaxlm.text.corpus import open_corpus, read_manifest
from jaxlm.types import UserError


def test_any_zarr_reader_opens_the_arrays(books, corpus):
    array = json.loads((books / "corpus/tokens/zarr.json").read_text())
    assert (array["zarr_format"], array["data_type"]) == (3, "uint16")
    assert array["shape"] == [corpus.num_tokens]
    assert array["codecs"][0]["name"] == "sharding_indexed"
    digests = corpus.manifest.files
    for name, data in contents(books / "corpus").items():
        if name != "manifest.json":
            assert digests[name]["sha256"] == hashlib.sha256(data).hexdigest()


def test_reading_equals_slicing(corpus, books, monkeypatch):
    tokens, marks = everything(corpus)
    width, n = 50, corpus.num_tokens
    starts = np.array([0, 1, n // 2, n - 50, n - 49, n - 1, n, n + 7, 3])
    padded = [np.concatenate([each, np.zeros(2 * width)]) for each in (tokens, marks)]
    want = [np.stack([p[min(s, n) :][:width] for s in starts]) for p in padded]
    monkeypatch.setattr(corpora, "IN_MEMORY", 10)
    stored = open_corpus(str(books / "corpus"))
    assert corpus.in_memory and not stored.in_memory
    for each in (corpus, stored):
        got = each.read(starts, width)
        assert [g.dtype for g in got] == [np.int32, np.uint8]
        assert all((g == w).all() for g, w in zip(got, want, strict=True))
        lengths = np.array([0, 1, width, 7, 49, 50, 3, 1, width])
        got = each.read(starts, width, lengths)
        inside = np.arange(width) < lengths[:, None]
        assert all((g == w * inside).all() for g, w in zip(got, want, strict=True))
        empty = each.read(np.array([], np.int64), width)
        assert [e.shape for e in empty] == [(0, width), (0, width)]


def test_many_threads_may_read(books, monkeypatch):
    monkeypatch.setattr(corpora, "IN_MEMORY", 10)
    corpus = open_corpus(str(books / "corpus"))
    starts = np.arange(0, corpus.num_tokens, 97)
    want = corpus.read(starts, 30)
    wrong = []

    def work():
        for _ in range(5):
            got = corpus.read(starts, 30)
            if any((g != w).any() for g, w in zip(got, want, strict=True)):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_damaged_corpus_is_refused(books, tmp_path):
    def damaged(name, change):
        directory = tmp_path / "corpus"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(books / "corpus", directory)
        change(directory / name)
        with pytest.raises(UserError) as caught:
            corpus = open_corpus(str(directory))
            corpus.read(np.array([0]), corpus.num_tokens)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)

    def cut(path):
        path.write_bytes(path.read_bytes()[:-5])

    assert "tokens/c/0 has" in damaged("tokens/c/0", cut)
    assert "lacks its file marks/c/0" in damaged("marks/c/0", Path.unlink)
    assert "lacks its file tokens/c/0" in damaged("tokens", shutil.rmtree)
    assert "are damaged" in damaged("tokens/c/0", flip)  # by the chunks' checksums
    assert "was changed" in damaged("tokenizer/vocab.txt", flip)
    assert "was changed" in damaged("tokens/zarr.json", flip)
    assert "no complete corpus" in damaged("manifest.json", Path.unlink)
    assert "cannot be read as JSON" in damaged("manifest.json", cut)

    def edit(**changes):
        def change(path):
            content = json.loads(path.read_text())
            del content["sha256"]  # as a manifest of an older version
            path.write_text(json.dumps({**content, **changes}))

        return change

    assert "format 0, this version reads 1" in damaged("manifest.json", edit(format=0))
    assert "tokens has not 5 rows" in damaged("manifest.json", edit(tokens=5))
    assert "its vocabulary 50 entries" in damaged("manifest.json", edit(vocab_size=50))
    assert "not a manifest" in damaged("manifest.json", edit(colour="blue"))


def test_no_flip_in_a_manifest_goes_unseen(books, tmp_path):
    shutil.copytree(books / "corpus", tmp_path / "corpus")
    path, draw = tmp_path / "corpus/manifest.json", random.Random(0)
    sound, manifest = path.read_bytes(), read_manifest(tmp_path / "corpus")
    for _ in range(300):
        harmed = bytearray(sound)
        harmed[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        path.write_bytes(harmed)
        try:
            assert read_manifest(tmp_path / "corpus") == manifest  # white space
        except UserError as error:
            assert "manifest.json" in str(error) and "prepare" in str(error)
