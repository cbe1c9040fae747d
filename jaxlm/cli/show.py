"""`jaxlm show CONFIG|DIR`: what a config, a corpus or a run is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Show:
    """Parameters and batch arithmetic of a config; counts and rows of a corpus; state
    of a run."""

    what: tyro.conf.Positional[str]
    """Name of a config, corpus directory or run directory."""
    config: str = "bert_tiny"
    """Config by which the rows of a corpus are masked."""
    rows: int = 0
    """Rows of a corpus, or of that of a run, to show as a model would see them."""


def run(argv: list[str]) -> int:
    """The verb."""
    if not argv:
        from jaxlm.config.files import recipes

        raise UserError(f"jaxlm show needs a config ({', '.join(recipes())}) or a DIR")
    args = parse(Show, "show", argv)
    path = Path(args.what)
    if (path / "manifest.json").is_file():
        _corpus(args)
    elif _is_model(path):
        _model(path)
    elif (path / "config.json").is_file():
        _run(path, args.rows)
    elif path.is_dir():
        raise UserError(f"{path} is neither a corpus nor a run directory")
    else:
        from jaxlm.config import load_config

        _config(load_config(args.what))
    return 0


def _is_model(path: Path) -> bool:
    if not path.is_dir():
        return False
    from jaxlm.convert.model_directory import is_model

    return is_model(path)


def _model(path: Path) -> None:
    """Tensors of a model directory, as its files and as we name them."""
    from jaxlm.convert.model_directory import open_model

    with open_model(path) as source:
        names = source.table.shapes
        rows = [
            (name, " × ".join(map(str, shape)), source.table.leaf_of(name))
            for name, shape in names.items()
        ]
        for note in (*source.notes, *(f"no {head} head" for head in source.missing)):
            print(note)
    rows = [("tensor", "shape", "parameter"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(n) for cell, n in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())
    print(f"{path}: {source.config}")


def _config(config) -> None:
    import math

    from jaxlm.families import build
    from jaxlm.sharding import RULES
    from jaxlm.train.optim import DECAY
    from jaxlm.train.state import abstract_params
    from jaxlm.tree import leaves, match

    params = abstract_params(build(config.model))
    axes = dict(_paths(match(RULES, params, families=True)))
    decay = dict(_paths(match(DECAY, params)))
    rows = [("parameter", "shape", "count", "axes", "decay")]
    for path, leaf in leaves(params):
        shape = " × ".join(map(str, leaf.shape))
        names = ", ".join(axis or "-" for axis in axes[path])
        count = f"{math.prod(leaf.shape):,}"
        rows.append((path, shape, count, names, "yes" if decay[path] else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for path, shape, count, names, decays in rows:
        cells = (path, shape, count.rjust(widths[2]), names, decays)
        padded = (cell.ljust(n) for cell, n in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())
    print()
    _arithmetic(config, params)


def _arithmetic(config, params) -> None:
    """How large the model is, and what its training reads and computes."""
    from jaxlm.families import family_of, num_parameters

    total = num_parameters(params, config.model)
    stored = num_parameters(params)
    padding = f" (and {stored - total:,} that pad the vocabulary)" * (stored > total)
    print(f"{total:,} parameters{padding}, {_si(stored * 4)}B in float32")
    begin = 0
    for i, phase in enumerate(config.all_phases):
        tokens = phase.batch * phase.length
        steps = phase.until - begin
        flops = family_of(config.model).train_flops(config, phase)
        shape = f"{phase.batch} rows × {phase.length} tokens"
        if family_of(config.model).fills:
            shape += f", at most {phase.predictions} predictions a row"
        if phase.accumulate > 1:
            micro = phase.batch // phase.accumulate
            shape += f", in {phase.accumulate} micro-batches of {micro} rows"
        print(f"phase {i}, steps {begin:,} to {phase.until:,}: {shape}")
        print(
            f"  a step {tokens:,} tokens, {_si(flops)}FLOP; "
            f"in all {steps * tokens:,} tokens, {_si(flops * steps)}FLOP"
        )
        begin = phase.until


def _si(value: int | float) -> str:
    """Three digits and a prefix: 498 M."""
    power = 1
    while value >= 999.5 * 1000**power and power < 6:
        power += 1
    return f"{value / 1000**power:.3g} {'kMGTPE'[power - 1]}"


def _paths(tree):
    import jax

    from jaxlm.tree import path_of

    flat = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: isinstance(x, (tuple, bool))
    )[0]
    return [(path_of(keys), value) for keys, value in flat]


def _run(path: Path, rows: int) -> None:
    from jaxlm.checkpoints import Checkpoints
    from jaxlm.checkpoints.digests import state_sha256
    from jaxlm.config import FinetuneConfig
    from jaxlm.families import build, family_of
    from jaxlm.train.state import abstract_params
    from jaxlm.train.workdir import read_config

    config = read_config(path)
    checkpoints = Checkpoints(path)
    records = json.loads((path / "provenance.json").read_text())
    starts = f"{len(records)} start" + "s" * (len(records) > 1)
    print(f"{path}: {config.steps:,} steps, seed {config.seed}, {starts}")
    if isinstance(config, FinetuneConfig):
        from jaxlm.tasks.objective import FIGURES

        declared = FIGURES
        _task(config, records[-1])
    else:
        declared = family_of(config.model).figures(config)
        _arithmetic(config, abstract_params(build(config.model)))
        newest = records[-1]
        print(f"corpus {newest['corpus']}  sha256 {newest['corpus_sha256']}")
    for step in checkpoints.steps():
        digests = checkpoints.manifest(step).digests
        print(f"checkpoint {step}  state sha256 {state_sha256(digests)}")
    _figures(path / "metrics.jsonl", declared)
    if rows and "corpus" in records[-1]:
        from jaxlm.cli.show_rows import print_rows
        from jaxlm.text.corpus import open_corpus

        print_rows(open_corpus(records[-1]["corpus"]), config, rows)


def _task(config, record) -> None:
    """What a fine-tuned model tells, and from what it learnt it."""
    task = config.task
    classes = f" of {', '.join(task.labels)}" if task.labels else ""
    print(f"a {task.kind} task{classes}, from {config.init}")
    print(f"data {record['data']}  sha256 {record['data_sha256']}")
    print(f"{config.batch} rows of up to {config.length} tokens a step")


def _figures(metrics: Path, declared) -> None:
    """The newest figures of training, and the newest of an evaluation."""
    from jaxlm.train.screen import evaluated, shown, trained

    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    records = [json.loads(line) for line in lines]
    if records:
        newest, name = records[-1], "tokens_per_second"
        speed = f"{shown(name, newest[name])} tokens/s"
        print("  ".join([f"step {newest['step']}", *trained(newest), speed]))
    for record in reversed(records):
        held_out = {
            name.removeprefix("eval_"): value
            for name, value in record.items()
            if name.startswith("eval_")
        }
        if held_out:
            lines = [f"step {record['step']}  held out", *evaluated(held_out, declared)]
            print("  ".join(lines))
            break


def _corpus(args: Show) -> None:
    from jaxlm.cli.prepare import language_lines
    from jaxlm.config import load_config
    from jaxlm.text.corpus import open_corpus

    corpus = open_corpus(args.what)
    manifest = corpus.manifest
    print(
        f"{args.what}: {manifest.tokens:,} tokens of {manifest.vocab_size:,}, "
        f"{manifest.sentences:,} sentences, {manifest.documents:,} documents "
        f"({manifest.held_out:,} held out)"
    )
    for line in language_lines(args.what, load_config(args.config).smoothing):
        print(line)
    print(f"sha256 {corpus.sha256}")
    if args.rows:
        from jaxlm.cli.show_rows import print_rows

        print_rows(corpus, load_config(args.config), args.rows)
