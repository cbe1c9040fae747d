"""Preparing a corpus: MB/s of text on one core and on several, and peak memory.

    python -m tools.bench.prepare books/*.txt --processes 1 2

Each row is a fresh process, watched from outside: `memory` is the largest sum of the
resident sizes of it and its workers (what they share counts for each). `MB/s a core` is
text over processor time, whoever spent it. The peer, measured in the same run, is the
`tokenizers` library's BERT tokenizer with the same vocabulary on one thread: the ids of
the same sentences and nothing else.

Google's create_pretraining_data.py makes 0.3 MB/s on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

_SIZE = os.sysconf("SC_PAGE_SIZE") / 1e6

PREPARE = """
import json, resource, sys
from jaxlm.config import BertConfig, RunConfig, TextConfig
from jaxlm.text.prepare import prepare
a = json.loads(sys.argv[1])
config = RunConfig(
    model=BertConfig(vocab_size=a["vocab_size"]),
    text=TextConfig(tokenizer=a["kind"], language=a["language"]),
)
manifest = prepare(
    config, a["text"], a["directory"], tokenizer=a["tokenizer"],
    processes=a["processes"],
)
used = [resource.getrusage(who) for who in
        (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "bytes": manifest.text_bytes, "tokens": manifest.tokens, "sha256": manifest.sha256,
    "cpu": sum(each.ru_utime + each.ru_stime for each in used),
}))
"""

PEER = """
import dataclasses, json, os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from jaxlm.text.documents import read_fragments
from jaxlm.text.recipe import Recipe
from jaxlm.text.texts import lines_are_sentences, texts_of
from jaxlm.text.find import find_sources
from jaxlm.text.tokenizers import load_tokenizer
a = json.loads(sys.argv[1])
library = load_tokenizer(a["tokenizer"]).library()
recipe = Recipe(languages=(a["language"],), errors="replace")
size = cpu = tokens = 0
for source in find_sources(a["text"]):
    source = dataclasses.replace(source, lines=lines_are_sentences(source, recipe))
    for fragment in read_fragments(source):
        sentences = texts_of(fragment, recipe).texts
        start = time.process_time()
        found = library.encode_batch_fast(sentences, add_special_tokens=False)
        tokens += sum(len(each.ids) for each in found)
        cpu += time.process_time() - start
        size += len(fragment.data)
    if size > 20e6:
        break
print(json.dumps({"bytes": size, "tokens": tokens, "cpu": cpu}))
"""


def resident(pid: int) -> float:
    """MB of a process and of those it started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0.0
    return pages * _SIZE + sum(resident(int(each)) for each in below)


def watched(code: str, arguments: dict) -> dict:
    """What a fresh process printed, with `seconds` and `memory`."""
    start, most = time.monotonic(), 0.0
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, resident(process.pid))
            time.sleep(0.02)
        assert process.stdout is not None
        out = process.stdout.read()
    if process.returncode:
        sys.exit(process.returncode)
    return {**json.loads(out), "seconds": time.monotonic() - start, "memory": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="+")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--vocab-size", type=int, default=30_522)
    parser.add_argument("--kind", default="wordpiece")
    parser.add_argument("--language", default="en")
    args = parser.parse_args()

    table = Table("", "text MB", "seconds", "MB/s", "MB/s a core", "memory MB")
    digests = set()

    def row(name: str, result: dict) -> None:
        size = result["bytes"] / 1e6
        figures = (size, result["seconds"], size / result["seconds"])
        cells = [f"{each:.1f}" for each in (*figures, size / result["cpu"])]
        table.add_row(name, *cells, f"{result['memory']:.0f}")

    with tempfile.TemporaryDirectory() as scratch:
        asked = {
            "text": args.text,
            "vocab_size": args.vocab_size,
            "kind": args.kind,
            "language": args.language,
        }
        given = None
        for name, processes in (
            (f"vocabulary of {args.vocab_size:,} and corpus", 1),
            *((f"corpus, {count} processes", count) for count in args.processes),
        ):
            directory = f"{scratch}/{len(table.rows)}"
            more = {"directory": directory, "tokenizer": given, "processes": processes}
            result = watched(PREPARE, {**asked, **more})
            given = given or f"{directory}/tokenizer"
            digests.add(result["sha256"])
            row(name, result)
        if args.kind == "wordpiece":
            result = watched(PEER, {**asked, "tokenizer": given})
            result["seconds"] = result["cpu"]
            row("peer: tokenizers, ids only", result)
    assert len(digests) == 1, "the corpora differ"
    Console().print(table)
    print(f"one corpus, sha256 {digests.pop()[:16]}")


if __name__ == "__main__":
    main()
