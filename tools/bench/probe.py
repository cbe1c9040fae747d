"""Probes of all layers and seeds as one program, and one after another.

    python tools/bench/probe.py RUN --data ner/ --label entities
    python tools/bench/probe.py RUN --data ud/ --sentences 10000 --steps 0

The states are computed once and timed apart; with --steps 0 there is no more. Both ways
have the same probes, batches and steps. With compiling: as a user waits. Without: the
difference between runs of N and of 2 N steps.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax

import jaxlm
from jaxlm.probe import edge, summary
from jaxlm.probe.edges import read_edges
from jaxlm.probe.features import Reader
from jaxlm.tasks.data_files import find_data_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--label", default="upos")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    model = jaxlm.load(args.run)
    reader = Reader(model.config, model.params, model.tokenizer)
    path = find_data_files(args.data).train
    read = read_edges(path, args.label, Counter())[: args.sentences]
    data = summary.labelled(read, read, args.label)
    every = edge.Probes.grid(model.config.num_layers + 1, 3, control=True)
    count = len(every.last)
    alone = [edge.Probes(*(each[i : i + 1] for each in every)) for i in range(count)]
    with tempfile.TemporaryDirectory() as cache:
        how = summary.Setting(3, edge.Schedule(), Path(cache))
        start = time.perf_counter(), time.process_time()
        states, cells = summary.features(reader, data.train, data, how, Counter())
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        print(
            f"states of {len(read):,} sentences, {states.offsets[-1]:,} tokens: "
            f"{taken[0]:.1f} s, {taken[1]:.1f} s of processor time"
        )
        if not args.steps:
            return

        def seconds(groups: list[edge.Probes], steps: int) -> float:
            start = time.perf_counter()
            for probes in groups:
                schedule = edge.Schedule(steps)
                jax.block_until_ready(
                    edge.train(probes, states, cells, lambda _: None, schedule)
                )
            return time.perf_counter() - start

        seconds([every], 1)
        for name, groups in (("one program", [every]), ("one by one", alone)):
            short, long = (seconds(groups, n * args.steps) for n in (1, 2))
            print(
                f"{name}: {long:.1f} s for {2 * args.steps} steps of {count} probes, "
                f"{(long - short) / args.steps * 1e3:.1f} ms a step without compiling"
            )


if __name__ == "__main__":
    main()
