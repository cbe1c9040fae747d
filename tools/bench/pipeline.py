"""Rows on the host and jitted transforms, as shares of a train step.

    python -m tools.bench.pipeline                        # prepares the shipped novels
    python -m tools.bench.pipeline --corpus DIR --step-ms 600

Host: time to read a batch, in the caller's thread and through reader threads (an upper
bound: a run hides it behind the step). `stored` reads each token from the files, as for
a corpus that is too large for memory. Transform: pairs and masks of a batch on the
device. The share is of a step at batch 32 × 128; pass --step-ms for another shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from jaxlm.config import BertConfig, MaskedData, Phase, RunConfig, load_config
from jaxlm.data.layouts import LAYOUTS
from jaxlm.data.rows import RowSource, ahead
from jaxlm.objectives.masked import masked_lm
from jaxlm.text.corpus import Corpus, open_corpus
from jaxlm.text.prepare import prepare
from jaxlm.types import Layout

WHOLE_WORDS = {"whole_words": True}
LEVELS = {"levels": (1 / 3, 1 / 3, 1 / 3), "choice": "each"}
SHAPES = ((32, 128, 20), (256, 128, 20), (256, 512, 80))  # batch, length, predictions


def milliseconds(run: Callable[[], object], rounds: int) -> float:
    """Median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def source_of(corpus: Corpus, length: int, layout: Layout = "pairs") -> RowSource:
    phase = Phase(until=1, length=length, batch=1, predictions=1)
    return LAYOUTS[layout](RunConfig(), corpus, phase, "bench")


def read_alone(source: RowSource, batch: int, rounds: int) -> float:
    steps = iter(range(rounds + 1))
    return milliseconds(
        lambda: source.read(next(steps) * batch + np.arange(batch)), rounds
    )


def read_ahead(source: RowSource, batch: int, threads: int, rounds: int) -> float:
    feed = ahead(
        lambda step: source.read(step * batch + np.arange(batch)),
        start=0,
        stop=rounds + 1,
        threads=threads,
    )
    next(feed)
    start = time.perf_counter()
    for _ in feed:
        pass
    return 1e3 * (time.perf_counter() - start) / rounds


def transform(corpus: Corpus, shape: tuple[int, int, int], rounds: int, **options):
    """Time of the jitted transform of a batch that lies on the device."""
    batch, length, predictions = shape
    nsp = options.pop("nsp", True)
    run = RunConfig(model=BertConfig(nsp=nsp), data=MaskedData(**options))
    phase = Phase(until=1, length=length, batch=batch, predictions=predictions)
    # Only the loss applies the module.
    objective = masked_lm(run, nn.Dense(1), corpus.manifest, phase, "bench")
    source = source_of(corpus, length, "pairs" if nsp else "blocks")
    rows = jax.device_put(source.read(np.arange(batch)))
    draw = jax.jit(objective.transform)
    return milliseconds(lambda: jax.block_until_ready(draw(rows)), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--corpus", help="a prepared corpus; default: the novels shipped"
    )
    parser.add_argument("--step-ms", type=float, default=400.0, help="step at 32 × 128")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if not args.corpus:
            print("preparing the shipped novels …", file=sys.stderr)
            prepare(load_config("bert_tiny"), ["shipped:austen"], directory)
        corpus = open_corpus(args.corpus or directory)
        stored = dataclasses.replace(corpus, in_memory=False)
        report(corpus, stored, args.step_ms, args.rounds)


def report(corpus: Corpus, stored: Corpus, step_ms: float, rounds: int) -> None:
    device = jax.devices()[0].device_kind
    print(
        f"{device}, {os.cpu_count()} cores, jax {jax.__version__}, "
        f"{corpus.num_tokens:,} tokens in {len(corpus.documents):,} documents"
    )

    def line(name: str, shape: tuple[int, ...], ms: float) -> None:
        batch, length = shape[:2]
        rows = batch / ms * 1e3
        share = (
            f"{ms / step_ms:7.2%} of the step" if (batch, length) == (32, 128) else ""
        )
        print(
            f"{name:34}{batch:4} × {length:<4}{ms:9.3f} ms {rows:10,.0f} rows/s {share}"
        )

    for shape in SHAPES[:2]:
        batch, length, _ = shape
        source = source_of(corpus, length)
        line("read, 1 thread", shape, read_alone(source, batch, rounds))
        for threads in (1, 4):
            name = f"read ahead, {threads} thread" + "s" * (threads > 1)
            line(name, shape, read_ahead(source, batch, threads, rounds))
        ms = read_alone(source_of(stored, length), batch, rounds)
        line("read, 1 thread, stored", shape, ms)
    for shape in SHAPES:
        units: dict[str, dict] = {"single tokens": {}, "whole words": WHOLE_WORDS}
        if corpus.manifest.recipe.marks_spans:
            units["tokens, phrases, entities"] = LEVELS
        for name, options in units.items():
            ms = transform(corpus, shape, rounds, **options)
            line(f"pairs and {name}", shape, ms)
    line(
        "single tokens, no pairs",
        SHAPES[0],
        transform(corpus, SHAPES[0], rounds, nsp=False),
    )


if __name__ == "__main__":
    main()
