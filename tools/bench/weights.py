"""Export and import of weights: time against a copy, peak memory against the file.

    python -m tools.bench.weights bert_large

A run of random weights with a checkpoint is exported to Hugging Face's form and
imported again, each by the command line in a fresh process. The peer copies the file of
weights, computes the SHA-256 of what it writes and replaces an earlier copy as a whole,
as export and import do. It runs twice: at once, and after a pause as long as they take
to start. On a virtual machine, free memory may go back to the host, and taking it again
can cost more than the writing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

RUN = """
import dataclasses, json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jaxlm.checkpoints import Checkpoints
from jaxlm.checkpoints.manifest import FORMAT
from jaxlm.config import load_config
from jaxlm.files import write_json
from jaxlm.families import parameter_shapes
from jaxlm.text.tokenizers import WordPiece
from jaxlm.tree import map_with_path
run, config = Path(sys.argv[2]), load_config(sys.argv[1])
run.mkdir()
write_json(run / "config.json", dataclasses.asdict(config))
record = dict(format=FORMAT)
record |= dict(corpus_sha256="", tokenizer_sha256="", commit="", versions={})
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
checkpoints.wait()
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
            at_once = copied(weights, here / "copy")
            time.sleep(start.seconds)
            rows.append((out, back, at_once, copied(weights, here / "copy")))
        size = weights.stat().st_size
        print(f"{args.recipe}: {size / 2**20:,.0f} MiB of weights")
        print(f"starting (jaxlm show): {start.seconds:.1f} s")
        for name, index in (("export", 0), ("import", 1)):
            peak = max(row[index].peak for row in rows)
            print(
                f"{name}: {spread(row[index].seconds for row in rows)} s, peak "
                f"{peak / 2**20:,.0f} MiB, {peak / size:.2f} of the file"
            )
            for copy, at in (("at once", 2), ("after a pause", 3)):
                less = [(row[index].seconds - start.seconds) / row[at] for row in rows]
                print(f"  less the start, in copies {copy}: {spread(less)}")
        for copy, at in (("at once", 2), ("after a pause", 3)):
            print(f"copy {copy}: {spread(row[at] for row in rows)} s")


def spread(values: Iterable[float]) -> str:
    """The median, and the least to the greatest."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{middle:.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


if __name__ == "__main__":
    main()
