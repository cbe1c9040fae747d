"""Packed rows: texts end to end in full rows, none twice, none in two languages."""

from __future__ import annotations

import numpy as np
import pytest
from reference.numbered import FIRST, lifelike, numbered
from reference.sources import open_source

from jaxlm.data import layouts
from jaxlm.types import Mark


def rows_of(corpus, length: int, **options):
    """Each row as a list of texts, and the source."""
    options = {"seed": 3, "stream": "t", "shuffle": False, **options}
    source = open_source(corpus, layout="packed", length=length, **options)
    span = source.read(np.arange(source.rows)).first
    rows = []
    for tokens, marks, n in zip(*span, strict=True):
        begins = np.flatnonzero(marks[:n] & Mark.DOCUMENT)
        cuts = np.unique(np.append(0, begins))[1:]
        rows.append([part.tolist() for part in np.split(tokens[:n], cuts)])
    return rows, source


def by_hand(texts: list[list[int]], length: int) -> list[list[list[int]]]:
    """Texts into rows one by one; a text that is cut goes on in the next row."""
    rows, room = [], 0
    for text in texts:
        while text:
            if room < 3:
                rows.append([])
                room = length
            part, text = text[: room - 2], text[room - 2 :]
            rows[-1].append(part)
            room -= len(part) + 2
    return rows


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("length", [8, 17, 128, 100_000])
def test_rows_are_filled_text_by_text(tmp_path, split, length):
    held_out = (0, 1, 5, 17, 18, 19, 59)
    corpus = numbered(lifelike(0, 60, (1, 3, 9)), tmp_path, held_out=held_out)
    ends = zip(corpus.documents.tolist(), corpus.ends.tolist(), strict=True)
    texts = [
        list(range(FIRST + first, FIRST + end))
        for (first, _, of), end in ends
        if of == split
    ]
    rows, _ = rows_of(corpus, length, split=split)
    assert rows == by_hand(texts, length)


def test_rows_begin_anew_with_languages_and_groups(tmp_path, monkeypatch):
    languages = [0] * 30 + [1] * 30
    corpus = numbered(lifelike(1, 60, (1, 3)), tmp_path, languages=languages)
    monkeypatch.setattr(layouts, "GROUP", 500)
    rows, source = rows_of(corpus, 64)
    tokens = [token for row in rows for text in row for token in text]
    assert tokens == list(range(FIRST, FIRST + corpus.num_tokens))
    begins = {row[0][0] - FIRST for row in rows}
    groups = source.texts[2]
    assert len(groups) > 3 and begins.issuperset(groups[:-1].tolist())
    assert corpus.documents[30, 0] in groups
    few = source.read(np.arange(3))
    shuffled = rows_of(corpus, 64, shuffle=True)[1]
    numbers = np.arange(1000)
    read = shuffled.read(numbers)
    assert {*read.first.tokens[:, 0].tolist()} == {each + FIRST for each in begins}
    np.testing.assert_array_equal(
        read.languages, read.first.tokens[:, 0] >= FIRST + corpus.documents[30, 0]
    )
    assert few.second is None
