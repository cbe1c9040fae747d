"""Rows read both ways, against documents walked in plain Python as bilm-tf does."""

from __future__ import annotations

import dataclasses
import itertools
import random

import jax
import numpy as np
import pytest
from reference.sources import any_phase, batches

from jaxlm.config import BilmData, RunConfig, TextConfig, elmo
from jaxlm.data.bilm import BilmRows
from jaxlm.text.characters import word_characters
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.text.tokenizers.words import WordVocab
from jaxlm.types import UserError

B, L, SLOTS = 3, 4, 9
CONFIG = RunConfig(
    model=elmo("tiny", vocab_size=12, max_characters=SLOTS),
    text=TextConfig(tokenizer="words", lowercase=False, words="space"),
    batch=B,
    length=8,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """30 documents of sentences of 1 to 9 words, the most frequent first."""
    where = tmp_path_factory.mktemp("words")
    chance = random.Random(5)
    words = [f"w{i}" for i in range(20)]
    documents = [
        "\n".join(
            " ".join(chance.choices(words, range(20, 0, -1), k=chance.randint(1, 9)))
            for _ in range(chance.choice((1, 2, 7)))
        )
        for _ in range(30)
    ]
    (where / "text.txt").write_text("\n\n".join(documents) + "\n")
    prepare(
        CONFIG,
        [str(where / "text.txt")],
        str(where / "corpus"),
        options=ReadOptions(sentences="lines", holdout=0.2),
    )
    return open_corpus(str(where / "corpus"))


def source_of(corpus, **options):
    phase = any_phase(L, options.pop("batch", B))
    config = dataclasses.replace(CONFIG, **options.pop("config", {}))
    return BilmRows(config, corpus, phase, "s", **options)


def documents_of(corpus, split, way):
    """(input, target) of every prediction, by document: `LMDataset` of bilm-tf."""
    tokens = corpus.read(np.zeros(1, np.int64), corpus.num_tokens)[0][0].tolist()
    found = []
    for i, (first, _, of) in enumerate(corpus.documents.tolist()):
        more = corpus.documents[i + 1 :, 0].tolist()
        text = tokens[first : more[0] if more else None]
        sentences, at = [], 0
        for n, token in enumerate(text):
            if token == 1:
                sentences.append(text[at : n + 1])
                at = n + 1
        if way:
            sentences = [sentence[::-1] for sentence in sentences]
        pairs = [p for s in sentences for p in itertools.pairwise(s)]
        if of == split:
            found.append(pairs)
    return found


def parts_of(source, number, way):
    """(input, target), part after part, of one pass."""
    rows = source.read(number * source.rows + np.arange(source.rows))
    shape = source.slices, B, L
    known = source.corpus.manifest.vocab_size
    tokens, targets, valid = (
        x[:, way].reshape(shape).transpose(1, 0, 2).ravel().tolist()
        for x in (rows.tokens, rows.targets, rows.valid)
    )
    assert max(targets) < known
    return [p for *p, v in zip(tokens, targets, valid, strict=True) if v]


def known(pairs, vocab_size):
    return [[a, b if b < vocab_size else 2] for a, b in pairs]


@pytest.mark.parametrize("way", [0, 1])
def test_a_pass_reads_each_document_once_in_an_order_of_its_own(corpus, way):
    source = source_of(corpus)
    documents = [known(d, 12) for d in documents_of(corpus, 0, way)]
    orders = []
    for number in (0, 1):
        read = parts_of(source, number, way)
        assert len(read) == B * L * source.slices
        left, order = list(range(len(documents))), []
        while read:
            # The longest that fits: a short document may begin a longer one.
            fits = [
                i
                for i in left
                if documents[i][: len(read)] == read[: len(documents[i])]
            ]
            assert fits, "what was read is no document"
            best = max(fits, key=lambda i: len(documents[i]))
            left.remove(best)
            order.append(best)
            read = read[len(documents[best]) :]
        # What is left waits for another pass: less than a batch of rows.
        assert sum(len(documents[i]) for i in left) < B * L
        orders.append(order)
    assert orders[0] != orders[1]


def test_both_ways_and_other_seeds_have_their_own_order(corpus):
    def documents(source, way):
        return [a for a, _ in parts_of(source, 0, way)]

    source = source_of(corpus)
    other = source_of(corpus, config={"seed": 1})
    assert sorted(documents(source, 0)) != documents(source, 0)
    assert documents(source, 0) != documents(other, 0)
    assert documents(source, 0) == documents(source_of(corpus), 0)
    ends = [[b for _, b in parts_of(source, 0, way) if b > 1] for way in (0, 1)]
    assert ends[0][:20] != ends[1][:20]


def test_an_evaluation_reads_all_of_its_split_once(corpus):
    source = source_of(corpus, split=1, shuffle=False)
    for way in (0, 1):
        every = [p for d in documents_of(corpus, 1, way) for p in known(d, 12)]
        assert parts_of(source, 0, way) == every
    beyond = source.read(source.rows + np.arange(B))
    assert not beyond.valid.any()
    few = source_of(corpus, split=1, shuffle=False, limit=B)
    assert few.slices == 1


def test_rows_go_on_where_the_step_before_ended(corpus):
    source = source_of(corpus)
    documents = [known(d, 12) for d in documents_of(corpus, 0, 0)]
    joined = [tuple(p) for d in documents for p in d]
    pairs = set(itertools.pairwise(joined))
    follows = 0
    steps = list(
        batches(source, B, np.arange(B), start=0, stop=source.slices, threads=2)
    )
    for a, b in itertools.pairwise(steps):
        for r in range(B):
            last = a.tokens[r, 0, -1], a.targets[r, 0, -1]
            first = b.tokens[r, 0, 0], b.targets[r, 0, 0]
            follows += (last, first) in pairs
    # But where a document ends just there.
    assert follows >= 0.8 * B * (len(steps) - 1)


def test_without_carry_a_row_is_a_sentence_both_ways(corpus):
    def opened(**options):
        return source_of(corpus, config={"data": BilmData(carry=False)}, **options)

    def rows_of(split, way):
        """Pieces of at most L predictions, sentence after sentence."""
        rows = []
        for pairs in documents_of(corpus, split, way):
            starts = [i for i, (a, _) in enumerate(pairs) if a == way]
            for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True):
                sentence = known(pairs[start:end], 12)
                rows += [sentence[i : i + L] for i in range(0, len(sentence), L)]
        return rows

    def read(source, way):
        rows = source.read(np.arange(source.rows))
        return [
            [[a, b] for a, b, v in zip(*row, strict=True) if v]
            for row in zip(
                *(x[:, way].tolist() for x in (rows.tokens, rows.targets, rows.valid)),
                strict=True,
            )
        ]

    for way in (0, 1):
        assert read(opened(split=1, shuffle=False), way) == rows_of(1, way)
        found = read(opened(), way)
        assert found != rows_of(0, way) and sorted(found) == sorted(rows_of(0, way))
    few = opened(split=1, shuffle=False, limit=2)
    assert few.rows == 2
    source = opened()
    last = source.read(source.rows - 1 + np.arange(2))
    assert last.valid[:, 0].any(axis=1).all()  # a pass follows another without a gap


def test_characters_are_the_spelling_also_of_oov_words(corpus):
    rows = source_of(corpus).read(np.arange(B))
    words = [corpus.types[i] for i in rows.tokens.ravel()]
    assert any(i >= 12 for i in rows.tokens.ravel())
    want = word_characters(words, slots=SLOTS).reshape(*rows.tokens.shape, SLOTS)
    np.testing.assert_array_equal(rows.characters, want)


def test_a_corpus_on_disk_reads_the_same(corpus):
    on_disk = dataclasses.replace(corpus, in_memory=False)
    numbers = np.arange(40)
    jax.tree.map(
        np.testing.assert_array_equal,
        source_of(corpus).read(numbers),
        source_of(on_disk).read(numbers),
    )


def test_mistakes(corpus, tmp_path):
    with pytest.raises(UserError, match=r"a batch takes batch x length = 1000 x 4"):
        source_of(corpus, batch=1000)
    (tmp_path / "t.txt").write_text("a b c. " * 50 + "\n")
    words = ["<S>", "</S>", "<UNK>", *"xyzuvw", *"rstq", *"klmno", ".", "c", "b", "a"]
    WordVocab(words, words="basic").save(tmp_path / "unsorted")
    config = RunConfig(
        model=elmo("tiny", vocab_size=len(words)),
        text=TextConfig(tokenizer="words", lowercase=False),
    )
    directory = str(tmp_path / "corpus")
    prepare(
        config,
        [str(tmp_path / "t.txt")],
        directory,
        tokenizer=str(tmp_path / "unsorted"),
    )
    with pytest.raises(UserError, match="not in falling frequency"):
        source_of(open_corpus(directory))
    pieces = RunConfig()
    pieces = dataclasses.replace(
        pieces, model=dataclasses.replace(pieces.model, vocab_size=40)
    )
    prepare(pieces, [str(tmp_path / "t.txt")], str(tmp_path / "pieces"))
    with pytest.raises(UserError, match="no whole words between <S> and </S>"):
        source_of(open_corpus(str(tmp_path / "pieces")))
