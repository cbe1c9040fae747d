"""`jaxlm show CONFIG|DIR`: describe a config, a corpus, a model or a run."""

import collections
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.pretrain import language_lines, open_shown
from jaxlm.config import FinetuneConfig, RunConfig, load_config
from jaxlm.files import local, place
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.metrics import Figure


@dataclass(frozen=True, kw_only=True)
class Show:
    """Parameters and batch arithmetic of a config; counts and rows of a corpus; tensors
    of a model; state of a run."""

    what: Positional[str]
    """Name of a config, or directory of a corpus, a model or a run."""
    config: str = ""
    """Config by which the rows of a corpus are masked; empty: bert_tiny."""
    rows: int = 0
    """Rows of a corpus, or of a run's corpus, to show as a model would read them."""


def run_show(argv: list[str]) -> int:
    """The verb `show`."""
    from jaxlm.config.files import recipes

    if not argv:
        raise UserError(f"jaxlm show needs a config ({', '.join(recipes())}) or a DIR")
    args = parse(Show, argv)
    path: Any = place(args.what)
    if (path / "manifest.json").is_file():
        _show_corpus(args)
        return 0
    if args.config:
        raise UserError(f"--config is for a corpus, and {path} is none")
    if not path.is_dir():
        if "/" in args.what and not args.what.endswith(".py"):
            what = "name a recipe, or the directory of a corpus, a model or a run"
            raise UserError(f"{args.what} is not a directory: {what}")
        config = load_config(args.what)
        if args.rows:
            raise UserError(f"--rows needs text: jaxlm show CORPUS --config {path}")
        _show_config(config)
        return 0
    from jaxlm.convert.model_directory import is_model

    if is_model(local(args.what)):
        if args.rows:
            raise UserError(f"--rows needs text, and {path} is a model")
        _show_model(local(args.what))
    elif (path / "config.json").is_file():
        _show_run(path, args.rows)
    else:
        raise UserError(f"{path} is neither a corpus nor a run directory")
    return 0


def _show_model(path: Path) -> None:
    """Print the tensors of a model directory, by their names in its files and jaxlm."""
    from jaxlm.convert.model_directory import open_model

    rows = [("tensor", "shape", "parameter")]
    with open_model(path, weights=False) as source:
        table = source.table
        for name, shape in table.shapes.items():
            rows.append((name, _by(shape), table.leaf_of(name)))
        for head in source.missing:
            print(f"no {head} head")
    _print_table(rows)
    print(f"{path}: {source.config}")


def _show_config(config: RunConfig) -> None:
    from jaxlm.families import parameter_shapes
    from jaxlm.sharding import RULES
    from jaxlm.train.optim import DECAY
    from jaxlm.tree import map_with_path, match

    params = parameter_shapes(config.model)
    axes, decay = match(RULES, params, families=True), match(DECAY, params)
    rows: list[tuple[str, ...]] = []

    def add(path: str, leaf: Any, axes: tuple[str | None, ...], decays: bool) -> None:
        count = f"{math.prod(leaf.shape):,}"
        names = ", ".join(axis or "-" for axis in axes)
        rows.append((path, _by(leaf.shape), count, names, "yes" if decays else ""))

    map_with_path(add, params, axes, decay)
    head = ("parameter", "shape", "count", "axes", "decay")
    _print_table([head, *sorted(rows)], right=2)
    print()
    _print_arithmetic(config, params)


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _print_table(rows: Sequence[tuple[str, ...]], right: int = -1) -> None:
    """Print aligned columns; `right` is the number of a right-aligned column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [">" if i == right else "<" for i in range(len(widths))]
    form = "  ".join(f"{{:{a}{w}}}" for a, w in zip(align, widths, strict=True))
    print(*(form.format(*row).rstrip() for row in rows), sep="\n")


def _print_arithmetic(config: RunConfig, params: Any) -> None:
    """Print the parameters of the model, and the tokens and FLOP of its training."""
    from jaxlm.families import family_of, num_parameters

    family = family_of(config.model)
    total, stored = config.model.num_parameters, num_parameters(params)
    padding = f" (and {stored - total:,} that pad the vocabulary)" * (stored > total)
    print(f"{total:,} parameters{padding}, {_si(stored * 4)}B in float32")
    begin = 0
    for i, phase in enumerate(config.all_phases):
        tokens, steps = phase.batch * phase.length, phase.until - begin
        flops = family.train_flops(config, phase)
        shape = f"{phase.batch} rows × {phase.length} tokens"
        if family.fills:
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
    """A number as three digits and an SI prefix: 498 M."""
    power = 1
    while value >= 999.5 * 1000**power and power < 6:
        power += 1
    return f"{value / 1000**power:.3g} {'kMGTPE'[power - 1]}"


def _show_run(path: Any, rows: int) -> None:
    from jaxlm.checkpoints import Checkpoints, RunFiles, state_sha256
    from jaxlm.families import family_of, parameter_shapes
    from jaxlm.tasks.objective import FIGURES
    from jaxlm.train.workdir import corpus_of, read_config, written_provenance

    config = read_config(path)
    task = config.task if isinstance(config, FinetuneConfig) else None
    if task and rows:
        raise UserError(f"--rows needs a corpus, and {path} is a run on a task's files")
    checkpoints = Checkpoints(path, run=RunFiles(config, {}))
    kept = [checkpoints.stored(step) for step in checkpoints.steps()]
    records = written_provenance(path)
    newest = records[-1]
    corpus = open_shown(corpus_of(path)) if rows else None
    starts = plural(len(records), "start")
    print(f"{path}: {plural(config.steps, 'step')}, seed {config.seed}, {starts}")
    if task:
        classes = f" of {', '.join(task.labels)}" if task.labels else ""
        print(f"a {task.kind} task{classes}, from {config.init}")
        print(f"data {newest['data']}  sha256 {newest['data_sha256']}")
        print(f"{config.batch} rows of up to {config.length} tokens a step")
    else:
        _print_arithmetic(config, parameter_shapes(config.model))
        print(f"corpus {corpus_of(path)}  sha256 {newest['corpus_sha256']}")
    for each in kept:
        if each:
            print(f"checkpoint {each.step}  state sha256 {state_sha256(each.digests)}")
    figures = FIGURES if task else family_of(config.model).figures(config)
    _print_figures(path / "metrics.jsonl", figures)
    if corpus:
        from jaxlm.cli.show_rows import print_rows

        print_rows(corpus, config, rows)


def _print_figures(metrics: Any, declared: "Sequence[Figure]") -> None:
    """Print the newest figures of training and of evaluation."""
    from jaxlm.train.log_files import read_metrics
    from jaxlm.train.screen import evaluated, shown, trained

    records, torn = read_metrics(metrics)
    if torn or not records:
        print(f"{metrics} has {len(records)} lines, and {torn} that are torn")
    if records:
        newest = collections.defaultdict(type(None), records[-1])
        name = "tokens_per_second"
        speed = f"{shown(name, newest[name])} tokens/s"
        print("  ".join([f"step {newest['step']}", *trained(newest), speed]))
    for record in reversed(records):
        held_out = {k[5:]: v for k, v in record.items() if k.startswith("eval_")}
        if held_out:
            said = [f"step {record['step']}  held out", *evaluated(held_out, declared)]
            print("  ".join(said))
            break


def _show_corpus(args: Show) -> None:
    corpus, config = open_shown(args.what), load_config(args.config or "bert_tiny")
    manifest = corpus.manifest
    print(
        f"{args.what}: {manifest.tokens:,} tokens of {manifest.vocab_size:,}, "
        f"{manifest.sentences:,} sentences, {manifest.documents:,} documents "
        f"({manifest.held_out:,} held out)"
    )
    lines = language_lines(corpus, config.smoothing)
    print(*lines, f"sha256 {corpus.sha256}", *manifest.notes, sep="\n")
    if args.rows:
        from jaxlm.cli.show_rows import print_rows

        print_rows(corpus, config, args.rows)
