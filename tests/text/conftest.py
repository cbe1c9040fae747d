"""Books, and a corpus made of them."""

import pytest
from text.books import CONFIG, HELD_OUT, novel

from jaxlm.text import units
from jaxlm.text.corpus import open_corpus
from jaxlm.text.prepare import prepare


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """Three files of text, and a corpus made of them."""
    folder = tmp_path_factory.mktemp("books")
    for i, chapters in enumerate((40, 3, 60)):
        (folder / f"{i}.txt").write_text(novel(chapters, seed=i))
    # In the folder of text, as people will: its vocab.txt is no text.
    prepare(CONFIG, [str(folder)], str(folder / "corpus"), options=HELD_OUT)
    return folder


@pytest.fixture(scope="module")
def corpus(books):
    return open_corpus(str(books / "corpus"))


@pytest.fixture
def small_units(monkeypatch):
    """Blocks, units and files small enough that there are many."""
    monkeypatch.setattr(units, "BLOCK", 1000)
    monkeypatch.setattr(units, "UNIT", 4000)
