"""`jaxlm finetune CONFIG --init DIR --data PATH --workdir DIR`: a model for a task."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxlm.cli.arguments import parse, say
from jaxlm.config import FinetuneConfig, load_config
from jaxlm.types import UserError

Config = typing.Annotated[FinetuneConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a pretrained model for a task. Run the same command again to resume."""

    config: Config
    workdir: str
    """Run directory: configuration, metrics, checkpoints, the best one apart, and what
    it answers to the dev file."""
    data: str
    """Training file, or a directory with train.* and dev.*."""
    dev: str = ""
    """Dev file; empty: the directory's."""
    seeds: int = 1
    """Runs, of --seed and those after it, each in WORKDIR/seed-N, with a table."""
    fallback: bool = False
    """Where the newest checkpoint is damaged, go on from the one before."""
    preempted_exit: int = 75
    """Exit status after a SIGTERM or Ctrl-C whose checkpoint is saved."""


class _Start(typing.NamedTuple):
    """What a run starts from."""

    model: Any
    tokenizer: Any
    params: Any  # None: its checkpoint has them


def run(argv: list[str]) -> int:
    """The verb."""
    if any(arg in ("-h", "--help") for arg in argv):
        parse(Finetune, "finetune", argv, config=FinetuneConfig())
    recipe, argv = _recipe(argv), argv[1:]
    init, workdir = (_word(argv, name) for name in ("--init", "--workdir"))

    from jaxlm.cli.runtime import start_jax

    start_jax()
    from jaxlm.tasks.finetune import open_job
    from jaxlm.tasks.read.data_files import find_data_files

    if not workdir:
        raise UserError("jaxlm finetune needs --workdir")
    start = _start(init, workdir)
    # Fits the flags to the family: `--model.dropout 0` is of the model at hand.
    length = min(recipe.length, start.model.max_length)
    config = dataclasses.replace(recipe, model=start.model, length=length)
    args = parse(Finetune, "finetune", argv, config=config)
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds} must be positive")
    _refuse_idle(args.config, recipe)
    job = open_job(args.config, start.tokenizer, find_data_files(args.data, args.dev))
    for note in job.notes:
        say(note)
    if args.seeds == 1:
        return _train(job, start, args, args.workdir, argv)
    seeds = range(job.config.seed, job.config.seed + args.seeds)
    for seed in seeds:
        each = job._replace(config=dataclasses.replace(job.config, seed=seed))
        status = _train(each, start, args, f"{args.workdir}/seed-{seed}", argv)
        if status:
            return status
    if job.dev:
        _print_table(args.workdir, seeds)
    return 0


def _refuse_idle(config: FinetuneConfig, recipe: FinetuneConfig) -> None:
    """Raise a UserError for a flag that a task's own field would overrule."""
    task = config.task
    if config.steps != recipe.steps and task.epochs:
        raise UserError(
            f"--steps {config.steps}: task.epochs = {task.epochs:g} says how long to "
            "train; pass --task.epochs 0 too"
        )
    if config.eval_every != recipe.eval_every:
        raise UserError(
            f"--eval_every {config.eval_every}: pass --task.evaluations, of a pass"
        )
    if config.optim.warmup != recipe.optim.warmup:
        raise UserError(
            f"--optim.warmup {config.optim.warmup}: pass --task.warmup, a share of all "
            "steps"
        )


def _recipe(argv: list[str]) -> FinetuneConfig:
    if not argv or argv[0].startswith("-"):
        raise UserError("jaxlm finetune needs a config first, for example sst2")
    recipe = load_config(argv[0])
    if not isinstance(recipe, FinetuneConfig):
        raise UserError(
            f"{argv[0]} is a recipe of pretraining: jaxlm pretrain takes it"
        )
    return recipe


def _word(argv: list[str], flag: str) -> str:
    """What follows a flag in the command; empty where it is not there."""
    for i, arg in enumerate(argv):
        if arg == flag and i + 1 < len(argv):
            return argv[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.partition("=")[2]
    return ""


def _start(init: str, workdir: str) -> _Start:
    """From the run's own files where it has begun, else from the model of --init."""
    from jaxlm.text.tokenizers import load_tokenizer
    from jaxlm.train.workdir import read_config

    seeds = sorted(Path(workdir).glob("seed-*/config.json"))
    begun = [path.parent for path in (Path(workdir) / "config.json", *seeds)]
    begun = [here for here in begun if (here / "config.json").is_file()]
    if begun and not init:
        raise UserError(f"{begun[0]} has begun from a model: name it again by --init")
    if not init:
        raise UserError("jaxlm finetune needs --init, a run or model directory")
    import jaxlm
    from jaxlm.open.directory import is_task
    from jaxlm.tasks.finetuned import open_finetuned
    from jaxlm.tasks.model import OWN

    if begun and not Path(init).exists():
        # Moved or removed since: all that a run needs of it is in its own directory.
        files = load_tokenizer(begun[0] / "tokenizer")
        return _Start(read_config(begun[0]).model, files, None)
    if is_task(init):
        # From one task to the next: all but what only that task read.
        fitted = open_finetuned(init)
        params = {k: v for k, v in fitted.params.items() if k not in OWN}
        return _Start(fitted.config.model, fitted.tokenizer, params)
    model = jaxlm.load(init)
    return _Start(model.config, model.tokenizer, model.params)


def _train(
    job: Any, start: _Start, args: Finetune, workdir: str, argv: list[str]
) -> int:
    from jaxlm.cli.runtime import in_turn
    from jaxlm.tasks.finetune import warm, work_of
    from jaxlm.train.loop import train
    from jaxlm.train.workdir import claim_workdir, lock

    with contextlib.ExitStack() as held:

        def opened() -> None:
            held.enter_context(lock(workdir))
            command = ["finetune", *argv]
            save = job.tokenizer.save
            claim_workdir(workdir, job.config, job.data, command, save)

        in_turn(opened)
        initial = warm(start.params, job) if start.params else _gone(job, workdir)
        outcome = train(
            job.config, work_of(job), workdir, fallback=args.fallback, initial=initial
        )
    _say_best(job, workdir)
    print(f"state sha256 {outcome.sha256}")
    sys.stdout.flush()
    if outcome.interrupted:
        say(f"stopped at step {outcome.step} after saving; the same command goes on")
        return args.preempted_exit
    _write_answers(job, workdir)
    return 0


def _gone(job: Any, workdir: str) -> Any:
    """The start of a run whose model is no longer there: its checkpoint, or nothing."""

    def parameters(*_: Any) -> Any:
        raise UserError(
            f"no directory --init {job.config.init}, to begin {workdir} from"
        )

    return parameters


def _say_best(job: Any, workdir: str) -> None:
    from jaxlm.tasks.seeds import best_figures
    from jaxlm.train.screen import evaluated

    found = best_figures(workdir) if job.dev else None
    if found:
        print("  ".join([f"best step {found[0]}", *evaluated(found[1])]))


def _write_answers(job: Any, workdir: str) -> None:
    """What the best parameters answer to the dev file, unless it is there.

    Where several hosts train the first one writes.
    """
    import jax

    from jaxlm.tasks.finetuned import predict_dev
    from jaxlm.tasks.seeds import best_figures

    found = best_figures(workdir) if job.dev else None
    if not found or jax.process_index():
        return
    kept = Path(workdir) / "best" / "checkpoints" / str(found[0])
    written = [path.stat().st_mtime for path in Path(workdir).glob("predictions.*")]
    if written and max(written) > kept.stat().st_mtime:
        return
    try:
        say(f"its answers: {predict_dev(workdir, job.dev, batch=job.config.batch)}")
    except UserError as error:
        say(f"no answers are written: {error}")


def _print_table(workdir: str, seeds: range) -> None:
    """Figures of each seed's best checkpoint, their mean ± sample deviation."""
    import json

    from jaxlm.tasks.seeds import best_figures, table

    found = {seed: best_figures(f"{workdir}/seed-{seed}") for seed in seeds}
    figures = {seed: each[1] for seed, each in found.items() if each}
    if not figures:
        say("no table: what was to be the best of each seed was never a number")
        return
    for line in table(figures):
        print(line)
    content = json.dumps({f"seed-{seed}": each for seed, each in figures.items()})
    (Path(workdir) / "seeds.json").write_text(content + "\n")
