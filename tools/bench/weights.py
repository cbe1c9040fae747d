"""Weights out and in: time against copying the bytes, peak memory against the file.

    python -m tools.bench.weights bert_large

A run of random weights with a checkpoint is made, exported to Hugging Face's form and
imported again, each by the command line in a fresh process; the peer is a copy of the
weights' file with a SHA-256 of what was written, as both of them store one, that takes
the place of an earlier copy as a whole, as both of them do, after a pause as long as
they take to start: where free memory goes back to a guest's host, taking it again can
cost more than the writing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

RUN = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jaxlm.checkpoints import Checkpoints
from jaxlm.config import load_config
from jaxlm.config.files import to_json
from jaxlm.models import parameter_shapes
from jaxlm.text.tokenizers import WordPiece
from jaxlm.tree import map_with_path
run, config = Path(sys.argv[2]), load_config(sys.argv[1])
run.mkdir()
(run / "config.json").write_text(to_json(config))
record = dict(corpus_sha256="", tokenizer_sha256="", commit="", versions={})
(run / "provenance.json").write_text(json.dumps([record]))
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words += [f"w{i}" for i in range(config.model.vocab_size - len(words))]
(run / "tokenizer").mkdir()
WordPiece(tuple(words), lowercase=True).save(run / "tokenizer")
random = np.random.default_rng(0)
def draw(path, shape):
    return jnp.asarray(random.standard_normal(shape.shape, np.float32) * 0.02)
params = map_with_path(draw, parameter_shapes(config.model))
checkpoints = Checkpoints(run)
checkpoints.open()
checkpoints.save(1, {"params": params, "step": jnp.int32(1)}, {})
checkpoints.close()
"""


class Cost(NamedTuple):
    """Of a process."""

    seconds: float
    peak: float  # bytes


def run(*command: str) -> Cost:
    """A command's time and the largest resident size of its process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env=os.environ
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Cost(time.perf_counter() - began, usage.ru_maxrss * 1024)


def copied(source: Path, out: Path) -> float:
    """Seconds that reading, writing and hashing a file take, a MiB at a time."""
    began = time.perf_counter()
    beside = out.with_suffix(".tmp")
    with source.open("rb") as file, beside.open("wb") as copy:
        while block := file.read(2**20):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    with beside.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    beside.replace(out)
    return time.perf_counter() - began


def main() -> None:
    """Make, export, import, copy, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        run("-c", RUN, args.recipe, str(here / "run"))
        start = run("-m", "jaxlm", "show", args.recipe)
        rows = []
        for _ in range(args.repeats):
            out = run(
                "-m", "jaxlm", "export", f"{here}/run", "--to", "hf", "--out",
                f"{here}/out",
            )  # fmt: skip
            back = run("-m", "jaxlm", "import", f"{here}/out", "--out", f"{here}/in")
            weights = here / "out" / "model.safetensors"
            time.sleep(start.seconds)
            rows.append((out, back, copied(weights, here / "copy")))
        size = weights.stat().st_size
        print(f"{args.recipe}: {size / 2**20:,.0f} MiB of weights")
        print(f"starting (jaxlm show): {start.seconds:.1f} s")
        for name, index in (("export", 0), ("import", 1)):
            seconds = sorted(row[index].seconds for row in rows)
            ratios = sorted(row[index].seconds / row[2] for row in rows)
            less = sorted((row[index].seconds - start.seconds) / row[2] for row in rows)
            peak = max(row[index].peak for row in rows)
            print(
                f"{name}: {seconds[len(rows) // 2]:.1f} s "
                f"({seconds[0]:.1f} to {seconds[-1]:.1f}), "
                f"{ratios[len(rows) // 2]:.2f} copies "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}), less the start "
                f"{less[len(rows) // 2]:.2f} ({less[0]:.2f} to {less[-1]:.2f}); "
                f"peak {peak / 2**20:,.0f} MiB, {peak / size:.2f} of the file"
            )
        copies = sorted(row[2] for row in rows)
        print(f"copy: {copies[len(rows) // 2]:.1f} s")


if __name__ == "__main__":
    main()
