"""`jaxlm finetune CONFIG --init DIR --data PATH --workdir DIR`: train for a task."""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxlm.cli.arguments import HELP, early, parse, refuse_misspelt, take_config
from jaxlm.cli.evaluate import Columns, say_transfer
from jaxlm.cli.pretrain import TrainingOptions, say_finished
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config import FinetuneConfig
from jaxlm.config.run import Count
from jaxlm.files import place, write_json
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.text.tokenizers import Tokenizer
    from jaxlm.train.loop import Outcome


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingOptions):
    """Train a pretrained model for a task. The same command resumes a run."""

    config: FinetuneConfig
    data: str
    """Training file, or a directory with train.* and dev.*."""
    dev: str = ""
    """Dev file; empty: the one in the directory of --data."""
    dev_task: Columns = field(default_factory=Columns)
    seeds: Count = 1
    """Number of runs, with seeds from --seed on, in WORKDIR/seed-N; prints a table."""
    transfer: tuple[str, ...] = ()
    """Files in other languages, tested after training and not trained on: files,
    directories, quoted globs; de.tsv, de/test.tsv or de:PATH is German. Their columns
    are those of the dev file."""


def run_finetune(argv: list[str]) -> int:
    """The verb `finetune`."""
    if HELP & set(argv):
        parse(Finetune, argv)
    recipe, words = take_config(FinetuneConfig, "finetune", argv)
    refuse_misspelt(Finetune, recipe, words)
    # The flags of `model` are those of the family that --init names.
    workdir, init, hosts = early(words, workdir="", init=recipe.init, hosts="auto")
    config, tokenizer = with_model(recipe, workdir, init, hosts)
    args = parse(Finetune, words, config=config)
    outcome = finetune(args, tokenizer, ["finetune", *argv])
    return args.preempted_exit if outcome.interrupted else 0


def with_model(
    recipe: FinetuneConfig, workdir: str, init: str, hosts: str
) -> "tuple[FinetuneConfig, Tokenizer]":
    """(the recipe with the model of --init, the tokenizer of that model)."""
    init = _init_of(workdir, init)
    start_jax(workdir, hosts)
    from jaxlm.open import model_of

    model, tokenizer = model_of(init)
    length = min(recipe.length, model.max_length)
    return dataclasses.replace(recipe, model=model, length=length), tokenizer


def finetune(args: Finetune, tokenizer: "Tokenizer", command: list[str]) -> "Outcome":
    """Train on each seed, or resume; `command` is for the provenance."""
    from jaxlm.hosts import agree, together
    from jaxlm.tasks.data_files import find_data_files, no_dev_note
    from jaxlm.tasks.finetune import open_run
    from jaxlm.tasks.transfer import find, read
    from jaxlm.train.workdir import code

    files, own = find_data_files(args.data, args.dev), args.dev_task.given()
    others = together(lambda: find(args.transfer) if args.transfer else {})
    job = together(lambda: open_run(args.config, tokenizer, files, own))
    args.check_profile(job.config)
    targets = together(lambda: read(job.task.with_columns(own), others, job.data))
    shared = {"--workdir": args.workdir, "--seeds": args.seeds, **code()}
    agree({**dataclasses.asdict(job.config), **shared, "--fallback": args.fallback})
    agree({name: each for name, each in job.data.items() if "_sha256" in name})
    say(*job.notes, *[no_dev_note(files)] * (not files.dev))
    several, seed, outcome = args.seeds > 1, job.config.seed, None
    seeds = range(seed, seed + args.seeds)
    runs = {s: f"{args.workdir}/seed-{s}" if several else args.workdir for s in seeds}
    for seed, workdir in runs.items():
        config = dataclasses.replace(job.config, seed=seed)
        outcome = _train(
            dataclasses.replace(job, config=config), args, workdir, command
        )
        if outcome.interrupted:
            return outcome
    if several and job.dev:
        _print_table(args.workdir, seeds)
    if targets:
        options: Any = {"columns": own, "batch": job.config.batch}
        say_transfer(args.workdir, [*runs.values()], targets, **options)
    assert outcome
    return outcome


def _init_of(workdir: str, init: str) -> str:
    """The directory of the model: --init, or the run itself if --init was deleted."""
    here = place(workdir)
    begun = [here / "config.json", *sorted(here.glob("seed-*/config.json"))]
    begun = [str(path.parent) for path in begun if path.is_file()]
    if begun and not init:
        raise UserError(f"{begun[0]} has begun from a model: name it again by --init")
    if not init:
        raise UserError("jaxlm finetune needs --init, a run or model directory")
    return init if place(init).exists() or not begun else begun[0]


def _train(job: Any, args: Finetune, workdir: str, command: list[str]) -> "Outcome":
    """Train one run."""
    from jaxlm.hosts import in_turn
    from jaxlm.open import pretrained
    from jaxlm.tasks.finetuned import best_figures
    from jaxlm.tasks.objective import FIGURES
    from jaxlm.train.loop import train
    from jaxlm.train.screen import evaluated
    from jaxlm.train.workdir import claim_workdir, lock

    with contextlib.ExitStack() as held:

        def opened() -> None:
            held.enter_context(lock(workdir))
            save = job.task.tokenizer.save
            claim_workdir(workdir, job.config, job.data, command, save)

        in_turn(opened)
        options: Any = {"fallback": args.fallback, "profile": args.profile}
        source = job.source()
        outcome = train(job.config, source, workdir, initial=pretrained, **options)
    best = best_figures(workdir) if job.dev else None
    if best:
        print("  ".join([f"best step {best[0]}", *evaluated(best[1], FIGURES)]))
    say_finished(outcome)
    if best and not outcome.interrupted:
        _write_answers(job, workdir, best[0])
    return outcome


def _write_answers(job: Any, workdir: str, step: int) -> None:
    """On the first host, write the answers of the best parameters for the dev file,
    unless they exist already."""
    import jax

    from jaxlm.tasks.finetuned import predict_dev

    if jax.process_index():
        return
    kept = place(workdir) / "best" / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
    written = [path.stat().mtime for path in place(workdir).glob("predictions.*")]
    if written and max(written) >= kept.stat().mtime:
        return
    try:
        path = predict_dev(workdir, job.dev, batch=job.config.batch)
        say(f"answers to the dev file: {path}")
    except UserError as error:
        say(f"no answers are written: {error}")


def _print_table(workdir: str, seeds: range) -> None:
    """On the first host, print and store the best figures of each seed, and mean ±
    sample deviation."""
    import jax

    from jaxlm.tasks.finetuned import best_figures, seed_table

    if jax.process_index():
        return
    found = {seed: best_figures(f"{workdir}/seed-{seed}") for seed in seeds}
    figures = {seed: each[1] for seed, each in found.items() if each}
    if not figures:
        say("no table: the metric of each seed was never a finite number")
        return
    print(*seed_table(figures), sep="\n")
    content = {f"seed-{seed}": each for seed, each in figures.items()}
    write_json(place(workdir) / "seeds.json", content)
