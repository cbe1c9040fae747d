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
    """Rows of a corpus to show as a model would see them."""


def run(argv: list[str]) -> int:
    """The verb."""
    if not argv:
        from jaxlm.config.files import recipes

        raise UserError(f"jaxlm show needs a config ({', '.join(recipes())}) or a DIR")
    args = parse(Show, "show", argv)
    path = Path(args.what)
    if (path / "manifest.json").is_file():
        _corpus(args)
    elif (path / "config.json").is_file():
        _run(path)
    elif path.is_dir():
        raise UserError(f"{path} is neither a corpus nor a run directory")
    else:
        from jaxlm.config import load_config

        _config(load_config(args.what))
    return 0


def _config(config) -> None:
    import math

    from rich.console import Console
    from rich.table import Table

    from jaxlm.models import build
    from jaxlm.models.flops import num_parameters, train_flops
    from jaxlm.sharding import RULES
    from jaxlm.train.optim import DECAY
    from jaxlm.train.state import abstract_params
    from jaxlm.tree import leaves, match

    params = abstract_params(build(config.model))
    axes, decay = (
        dict(_paths(match(RULES, params, families=True))),
        dict(_paths(match(DECAY, params))),
    )
    table = Table("parameter", "shape", "count", "axes", "decay", box=None)
    for path, leaf in leaves(params):
        names = ", ".join(axis or "-" for axis in axes[path])
        shape = " x ".join(map(str, leaf.shape))
        count = f"{math.prod(leaf.shape):,}"
        table.add_row(path, shape, count, names, "yes" if decay[path] else "")
    console = Console()
    console.print(table)
    total = num_parameters(params, config.model)
    stored = num_parameters(params)
    padding = f" (and {stored - total:,} that pad the vocabulary)" * (stored > total)
    console.print(
        f"\n{total:,} parameters{padding}, {stored * 4 / 1e6:,.0f} MB in float32"
    )
    begin = 0
    for i, phase in enumerate(config.stretches):
        tokens = phase.batch * phase.length
        steps = phase.until - begin
        flops = train_flops(config.model, phase)
        console.print(
            f"phase {i}: steps {begin:,} to {phase.until:,}, {phase.batch} rows x "
            f"{phase.length} tokens = {tokens:,} a step, {steps * tokens:,} in all; "
            f"{phase.batch // phase.accumulate} rows a micro-batch, at most "
            f"{phase.predictions} predictions a row; {flops / 1e12:.3g} TFLOP a step, "
            f"{flops * steps / 1e18:.3g} EFLOP in all",
            highlight=False,
        )
        begin = phase.until


def _paths(tree):
    import jax

    from jaxlm.tree import path_of

    flat = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: isinstance(x, (tuple, bool))
    )[0]
    return [(path_of(keys), value) for keys, value in flat]


def _run(path: Path) -> None:
    from jaxlm.checkpoints import Checkpoints
    from jaxlm.digests import state_sha256
    from jaxlm.train.workdir import read_config

    config = read_config(path)
    checkpoints = Checkpoints(path)
    records = json.loads((path / "provenance.json").read_text())
    print(f"{path}: {config.steps:,} steps, seed {config.seed}, {len(records)} starts")
    print(f"corpus {records[-1]['corpus']} {records[-1]['corpus_sha256'][:16]}")
    for step in checkpoints.steps():
        digests = checkpoints.manifest(step).digests
        print(f"checkpoint {step}  state sha256 {state_sha256(digests)}")
    metrics = path / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    if lines:
        record = json.loads(lines[-1])
        shown = {k: v for k, v in record.items() if isinstance(v, (int, float))}
        print("  ".join(f"{k} {v:.6g}" for k, v in shown.items()))


def _corpus(args: Show) -> None:
    from jaxlm.config import load_config
    from jaxlm.text.corpus import open_corpus

    corpus = open_corpus(args.what)
    manifest = corpus.manifest
    print(
        f"{args.what}: {manifest.tokens:,} tokens of {manifest.vocab_size:,}, "
        f"{manifest.sentences:,} sentences, {manifest.documents:,} documents"
    )
    print(f"sha256 {corpus.sha256}")
    if args.rows:
        from jaxlm.cli.rows import print_rows

        print_rows(corpus, load_config(args.config), args.rows)
