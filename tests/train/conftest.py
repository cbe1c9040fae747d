"""A small real corpus for the loop's tests."""

import lzma
from pathlib import Path

import pytest
from tiny import tiny

import jaxlm

SHIPPED = Path(jaxlm.__file__).parent / "text" / "shipped"


@pytest.fixture(scope="session")
def corpus_directory(tmp_path_factory):
    """Some chapters of Jane Austen, prepared once for each worker."""
    from jaxlm.text.prepare import prepare
    from jaxlm.text.recipe import ReadOptions

    scratch = tmp_path_factory.mktemp("corpus")
    text = scratch / "austen.txt"
    with lzma.open(next(SHIPPED.glob("austen*")), "rt") as file:
        text.write_text(file.read(150_000))
    prepare(
        tiny(), [str(text)], str(scratch / "corpus"), options=ReadOptions(holdout=0.3)
    )
    return str(scratch / "corpus")


@pytest.fixture
def corpus(corpus_directory):
    from jaxlm.text.corpus import open_corpus

    return open_corpus(corpus_directory)
