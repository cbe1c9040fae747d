"""A novel, and a run on it."""

import lzma
from pathlib import Path

import pytest
from cli.commands import SIZE, TINY

import jaxlm
from jaxlm.cli import main

SHIPPED = Path(jaxlm.__file__).parent / "text" / "shipped"


@pytest.fixture(scope="session")
def novel(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    with lzma.open(next(SHIPPED.glob("austen*")), "rt") as file:
        path.write_text(file.read(120_000))
    return str(path)


@pytest.fixture(scope="session")
def run(novel, tmp_path_factory) -> Path:
    """A run directory and beside it its corpus, made by the command line alone."""
    here = tmp_path_factory.mktemp("run")
    arguments = ["--text", novel, "--holdout", "0.3", "--processes", "1"]
    corpus = ["--corpus", str(here / "corpus")]
    assert main(["prepare", "bert_tiny", *arguments, *corpus, *SIZE]) == 0
    keep = ["--workdir", str(here / "r"), "--keep_every", "log"]
    assert main(["pretrain", "bert_tiny", *corpus, *keep, *TINY]) == 0
    return here / "r"
