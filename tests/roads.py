"""A tiny pretraining run of one family, made by the command line in seconds."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path

import jaxlm
from jaxlm.cli import main

SHIPPED = Path(jaxlm.__file__).parent / "text" / "shipped"


class Road:
    """A folder with a corpus and an uninterrupted run named "run".

    Args:
        here: an empty folder.
        words: a recipe and its flags.
        text: the training text; by default pages of Jane Austen.
        kind: the suffix of the text file.
    """

    def __init__(self, here: Path, words: str, text: str = "", kind: str = "txt"):
        self.here, (self.recipe, *self.flags) = here, words.split()
        self.novel, self.run = here / f"novel.{kind}", str(here / "run")
        if not text:
            with lzma.open(next(SHIPPED.glob("austen*")), "rt") as file:
                text = file.read(60_000)
        self.novel.write_text(text)
        assert main(["pretrain", *self("run")]) == 0

    def __call__(self, run: str, *more: str) -> list[str]:
        """The arguments of `jaxlm pretrain` for a run on this corpus."""
        text = ["--text", str(self.novel), "--holdout", "0.3", "--processes", "1"]
        where = ["--corpus", f"{self.here}/corpus", "--workdir", f"{self.here}/{run}"]
        return [self.recipe, *text, *where, *self.flags, *more]

    def lines(self, run: str) -> list[dict]:
        """The records of a run's metrics.jsonl."""
        text = (self.here / run / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def digest(capsys) -> str:
    """The state digest that the last command printed."""
    return capsys.readouterr().out.split("state sha256 ")[1].split()[0]


def without_size(error: str) -> str:
    """Without the lines on a run's size and its time on a slow machine, which stand
    above a mistake of training."""
    lines = error.splitlines(keepends=True)
    told = re.compile(r" parameters; | here to step ")
    return "".join(line for line in lines if not told.search(line))


def mistake(capsys, *argv: str) -> str:
    """Run a command that must be refused; the one line that it prints."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    out, error = capsys.readouterr()
    error = without_size(error)
    assert not out and error.startswith("jaxlm: ") and error.count("\n") == 1, error
    return error
