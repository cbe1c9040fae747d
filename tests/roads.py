"""A family's whole road by the command line: pages of a novel, a run of seconds."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import jaxlm
from jaxlm.cli import main

SHIPPED = Path(jaxlm.__file__).parent / "text" / "shipped"


class Road:
    """A folder with a corpus, and in it a run that was never interrupted.

    Args:
        here: an empty folder.
        words: name of a config and its flags.
        text: what to read; pages of Jane Austen by default.
        kind: of the file.
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
        """Words after `jaxlm pretrain` for a run of that name."""
        text = ["--text", str(self.novel), "--holdout", "0.3", "--processes", "1"]
        where = ["--corpus", f"{self.here}/corpus", "--workdir", f"{self.here}/{run}"]
        return [self.recipe, *text, *where, *self.flags, *more]

    def lines(self, run: str) -> list[dict]:
        """The metrics of a run."""
        text = (self.here / run / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def digest(capsys) -> str:
    """Of the state that the last command ended in."""
    return capsys.readouterr().out.split("state sha256 ")[1].split()[0]


def mistake(capsys, *argv: str) -> str:
    """The one line that a command which must fail leaves behind."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith("jaxlm: ") and error.count("\n") == 1, error
    return error
