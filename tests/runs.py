"""Tiny pretraining runs in this process and in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from tiny import tiny
from xla_flags import FAST

from jaxlm.open import pretrained
from jaxlm.train.loop import Outcome, train
from jaxlm.train.source import corpus_source
from jaxlm.train.times import FIELDS

# What a line says of this machine's speed, and not of the run.
SPEED = {"tokens_per_second", "mfu", *FIELDS}


def pretrain(config, corpus, workdir, profile="") -> Outcome:
    source = corpus_source(config, corpus)
    return train(config, source, workdir, initial=pretrained, profile=profile)


def lines(workdir: Path) -> list[dict]:
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k not in SPEED} for r in records]


def command(tmp_path, corpus, workdir, **changes) -> list[str]:
    """The command line of a run of its own process, one CPU device."""
    config = tiny(**changes)
    content, file = json.dumps(dataclasses.asdict(config)), tmp_path / "config.py"
    file.write_text(
        "import json\nfrom jaxlm.config.files import from_dict\n"
        f"def get_config():\n    return from_dict(json.loads({content!r}))\n"
    )
    return [
        sys.executable,
        "-m",
        "jaxlm",
        "pretrain",
        str(file),
        "--corpus",
        corpus,
        "--workdir",
        str(workdir),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "XLA_FLAGS": FAST, "PYTHONUNBUFFERED": "1"}
