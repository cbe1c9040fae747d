"""Sentence pairs against the plain-Python reference, one window and whole passes.

One window at a time the two distributions are equal, and the tests say so at p < 1e-8 a
figure. Over a pass they differ where `data/layouts.py` says: those tests state by how
much. Every comparison is also run with references of one wrong rule, and must fail.
"""

from __future__ import annotations

import re
import tarfile

import numpy as np
import pytest
from reference.bert_data import Reference
from reference.numbered import Numbered, lifelike, numbered
from reference.observed import (
    Pairs,
    differences,
    distance,
    figures,
    first_pairs_of_reference,
    join,
    noise,
    pairs_of,
    pairs_of_reference,
    road,
    uses,
)
from scipy.stats import chisquare

from jaxlm.config import MaskedData

# One window: all the choices of a row, from the same place in the text.

OTHERS = lifelike(5, 40, (1, 2, 10, 30))
WINDOWS = {
    "prose": lifelike(1, 1, (60,))[0],
    "short sentences": [3, 5, 2, 7, 4, 6, 1, 8, 2, 9] * 8,
    "the end of a document": [20, 30, 15],
    "one sentence": [40],
    "one long sentence": [200],
    "sentences that overrun": [90, 110, 100, 120],
}
DRAWS = 8192


def window_corpus(name: str, directory) -> Numbered:
    return numbered([WINDOWS[name], *OTHERS], directory)


def first_pairs(corpus: Numbered, rows: int, length: int = 128) -> Pairs:
    """The row of the first window, drawn again and again."""
    batch = road(corpus, length=length, limit=1).batch(np.arange(rows))
    return pairs_of(batch, corpus.special)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_gives_the_pairs_of_the_reference(name, tmp_path):
    corpus = window_corpus(name, tmp_path)
    ours = first_pairs(corpus, DRAWS)
    theirs = first_pairs_of_reference(Reference(), corpus, DRAWS)
    assert not differences(figures(ours, corpus), figures(theirs, corpus))


class SplitInTheMiddle(Reference):
    def split(self, chunk, rng):
        return max(1, len(chunk) // 2)


class AlwaysFull(Reference):
    def document_target(self, rng):
        return self.length - 3


class CutAtTheBack(Reference):
    def at_front(self, rng):
        return False


class BFillsTheRow(Reference):
    def random_second(self, documents, number, wanted, rng):
        return super().random_second(documents, number, self.length, rng)


class CutFromA(Reference):
    def truncate(self, a, b, rng):
        while len(a) + len(b) > self.length - 3:
            longer = a if len(a) >= len(b) else b
            del longer[0 if self.at_front(rng) else -1]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (SplitInTheMiddle, "prose"),
        (SplitInTheMiddle, "short sentences"),
        (AlwaysFull, "short sentences"),
        (CutAtTheBack, "prose"),
        (CutAtTheBack, "one long sentence"),
        (BFillsTheRow, "one sentence"),
        (CutFromA, "sentences that overrun"),
    ],
)
def test_a_wrong_rule_is_noticed(wrong, name, tmp_path):
    corpus = window_corpus(name, tmp_path)
    ours = first_pairs(corpus, DRAWS)
    theirs = first_pairs_of_reference(wrong(), corpus, DRAWS)
    assert differences(figures(ours, corpus), figures(theirs, corpus))


def test_of_a_very_long_sentence_the_middle_of_its_first_tokens_is_left(tmp_path):
    # The documented difference: spans are 2 · length wide.
    corpus = numbered([[600], *OTHERS], tmp_path)
    ours = first_pairs(corpus, 2048)
    theirs = first_pairs_of_reference(Reference(), corpus, 2048)
    for pairs, tokens in ((ours, 256), (theirs, 600)):
        assert abs((pairs.a + pairs.len_a / 2).mean() / (tokens / 2) - 1) < 0.02
    for each in ("len_a", "len_b"):
        mine, other = getattr(ours, each), getattr(theirs, each)
        assert distance(mine, other) < noise(mine, other)


def test_short_targets_are_uniform_and_a_tenth(tmp_path):
    # Sentences of one token: a next pair has exactly as many tokens as it aimed at.
    corpus = numbered([[1] * 300, [1] * 300], tmp_path)
    ours = first_pairs(corpus, 40_960)
    total = (ours.len_a + ours.len_b)[~ours.is_random]
    short = total[total < 125]
    share = 0.1 * 123 / 124  # the longest of the 124 short targets is the full one
    assert abs(len(short) / len(total) - share) < 6 * np.sqrt(share / len(total))
    counts = np.bincount(short, minlength=125)[2:125]
    assert counts.sum() == len(short)
    assert chisquare(counts).pvalue > 1e-8


# Whole passes: what the plan of the windows makes of it. Short targets are left out
# where they would hide the rest: `test_a_short_target_is_drawn_for_a_row…` has them.

CORPORA = {
    "long documents": lambda: lifelike(1, 30, (150, 300)),
    "short documents": lambda: lifelike(2, 500, (5, 10, 15, 20, 30)),
    "paragraphs": lambda: lifelike(3, 1500, (1, 2, 3, 4)),
}
PASSES = 8
# Windows move by ¾ of a chunk each, the reference's by all of it or by a part, so ours
# begin in other places: a twentieth at most of any distribution function.
SLACK = 0.05


class Drawn:
    """A corpus, its rows and the reference's, pass by pass."""

    def __init__(self, corpus: Numbered, *, short_rate: float, passes: int):
        self.corpus = corpus
        drawn = road(corpus, data=MaskedData(short_rate=short_rate))
        self.ours = [pairs_of(b, corpus.special) for b in drawn.passes(passes)]
        self.theirs = self.of(Reference(short_rate=short_rate))

    def of(self, reference: Reference) -> list[Pairs]:
        return pairs_of_reference(reference, self.corpus, len(self.ours))

    def uses(self, passes: list[Pairs]) -> np.ndarray:
        """[pass, token]: how often each token was shown."""
        return np.stack([uses(each, self.corpus.num_tokens) for each in passes])


@pytest.fixture(scope="module", params=CORPORA)
def drawn(request, tmp_path_factory) -> Drawn:
    corpus = numbered(CORPORA[request.param](), tmp_path_factory.mktemp("corpus"))
    return Drawn(corpus, short_rate=0.0, passes=PASSES)


def check(drawn: Drawn, theirs: list[Pairs]) -> None:
    """Pairs, rows and uses of a token in a pass are the reference's."""
    ours = figures(join(drawn.ours), drawn.corpus)
    assert not differences(ours, figures(join(theirs), drawn.corpus), SLACK)
    assert abs(drawn.uses(drawn.ours).mean() / drawn.uses(theirs).mean() - 1) < 0.08
    assert abs(len(join(drawn.ours).a) / len(join(theirs).a) - 1) < 0.08


def test_a_pass_has_the_pairs_of_the_reference(drawn):
    check(drawn, drawn.theirs)


@pytest.mark.shared
def test_a_pass_over_a_novel_has_the_pairs_of_the_reference(shared, tmp_path):
    drawn = Drawn(novel(shared, tmp_path), short_rate=0.0, passes=PASSES)
    check(drawn, drawn.theirs)


def novel(shared, directory) -> Numbered:
    """The first of the novels: its chapters, sentences, words and pieces of words."""
    with tarfile.open(shared / "novels_en" / "eltec-en.tar.xz") as archive:
        name = next(m for m in archive if m.name.endswith(".txt"))
        text = archive.extractfile(name).read().decode()
    chapters = [
        [
            [-(-len(word) // 5) for word in sentence.split()]
            for sentence in re.split(r"(?<=[.!?])\s+", chapter)
            if sentence.strip()
        ]
        for chapter in re.split(r"\n\s*\n", text)
        if chapter.strip()
    ]
    words = [size for chapter in chapters for s in chapter for size in s]
    lengths = [[sum(sentence) for sentence in chapter] for chapter in chapters]
    return numbered(lengths, directory, words=words)


class NoPutBack(Reference):
    def unused(self, chunk, a_end):
        return 0


class SeldomRandom(Reference):
    def coin(self, chunk, rng):
        return len(chunk) == 1 or rng.random() < 0.3


@pytest.mark.parametrize("wrong", [NoPutBack, SeldomRandom])
def test_a_wrong_rule_shows_in_a_pass(drawn, wrong):
    with pytest.raises(AssertionError):
        check(drawn, drawn.of(wrong(short_rate=0.0)))


def test_next_pairs_follow_and_random_ones_are_elsewhere(drawn):
    pairs = join(drawn.ours)
    document_a, document_b = (
        np.searchsorted(drawn.corpus.documents[:, 0], start, side="right") - 1
        for start in (pairs.a, pairs.b)
    )
    np.testing.assert_array_equal(document_a != document_b, pairs.is_random)
    following = pairs.where(~pairs.is_random)
    gap = following.b - following.a - following.len_a
    whole = following.len_a + following.len_b < 125
    assert (gap >= 0).all()
    assert (gap[whole] == 0).all()
    assert (gap > 0).any()  # lost at the back of A and at the front of B


def test_a_document_of_one_sentence_is_always_paired_with_another(tmp_path):
    corpus = numbered([[30], [20, 20], [150], [3] * 9], tmp_path)
    pairs = pairs_of(road(corpus).batch(np.arange(2048)), corpus.special)
    alone = np.isin(pairs.a, np.arange(30)) | np.isin(pairs.a, np.arange(70, 220))
    assert alone.sum() >= 100
    assert pairs.is_random[alone].all()
    assert not pairs.is_random[~alone].all()


def test_what_one_pass_leaves_out_another_shows(drawn):
    # The price of a plan without coins: what a random row leaves of its chunk is not
    # put back in this pass, so the reference shows more different tokens in each. Not
    # even it shows all in eight: the ends of a very long sentence are mostly cut.
    ours, theirs = ((drawn.uses(p) == 0) for p in (drawn.ours, drawn.theirs))
    assert ours.mean() < 0.18
    assert theirs.mean() < 0.09
    assert ours.all(axis=0).mean() < 2e-3
    assert theirs.all(axis=0).mean() < 1e-3


def test_eight_passes_show_every_token_of_sentences_that_fit(tmp_path):
    short = [[min(size, 30) for size in each] for each in lifelike(4, 60, (20, 40))]
    corpus = numbered(short, tmp_path)
    drawn = Drawn(corpus, short_rate=0.1, passes=8)
    assert drawn.uses(drawn.ours).sum(axis=0).all()


def test_a_short_target_is_drawn_for_a_row_and_not_for_a_document(tmp_path):
    # The documented difference. A document with a short target falls into more rows, so
    # of the reference's rows more are short, and a few more of them are random.
    corpus = numbered(CORPORA["long documents"](), tmp_path)
    drawn = Drawn(corpus, short_rate=0.1, passes=8)
    ours, theirs = join(drawn.ours), join(drawn.theirs)
    short = [np.mean(p.len_a + p.len_b < 125) for p in (ours, theirs)]
    assert 0.07 < short[0] < 0.11
    assert 0.12 < short[1] < 0.22
    assert abs(ours.is_random.mean() - theirs.is_random.mean()) < 0.03
