"""Text to a model: `jaxlm prepare CONFIG --text …`, `jaxlm pretrain CONFIG …`."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.cli.arguments import HELP, early, parse
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config import RunConfig
from jaxlm.config.run import range_of
from jaxlm.files import is_remote, place
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.text.corpus import Corpus
    from jaxlm.text.remote import Progress
    from jaxlm.train.loop import Outcome

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class TextOptions(ReadOptions):
    """The sources of text, and how they are read."""

    text: tuple[str, ...] = ()
    """Files, directories or quoted globs (.txt .jsonl .csv, also .gz .xz .zst .bz2, and
    .parquet), tfds:name, tfds:/directory, wiki:dump.xml.bz2 or shipped:austen; in
    several languages, each with its label in front: en:'en/*.txt' zh:'zh/*.txt' (see
    --smoothing)."""
    tokenizer: str = ""
    """Vocabulary to use (vocab.txt, tokenizer.json, a directory); empty: train one."""
    holdout: float = 0.01
    """Share of documents, chosen by hash, that are kept for evaluation: two at least
    if there are 100."""
    processes: int = 0
    """Number of processes; 0: one per core. Any number gives the same corpus."""


@dataclass(frozen=True, kw_only=True)
class Prepare(TextOptions):
    """Text → tokenizer → corpus. The same command resumes after a kill."""

    settings: ClassVar = ("text", "smoothing", "seed", "model.vocab_size", "data.cache")

    config: RunConfig
    corpus: str
    """Directory to write, local or on gs://."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of both training verbs."""

    workdir: str
    """Run directory: configuration, metrics, checkpoints."""
    fallback: bool = False
    """If the newest checkpoint is damaged, resume from the one before it."""
    hosts: str = "auto"
    """Number of hosts that must join; auto: those that the launcher, or the metadata
    server of a TPU, tells of; off: this host alone."""
    preempted_exit: int = 75
    """Exit status after SIGTERM, Ctrl-C or SIGHUP, once the checkpoint is saved."""
    profile: str = ""
    """START:STOP: trace the steps that take the run from START to STOP, on the first
    host, into WORKDIR/profile. An invocation's first step compiles: leave it out."""

    def __post_init__(self) -> None:
        if os.path.isfile(self.workdir):
            raise UserError(f"--workdir {self.workdir} is a file: name a directory")
        if self.profile:
            range_of(self.profile, "profile")

    def check_profile(self, config: RunConfig) -> None:
        """UserError if the run ends before the steps of --profile."""
        last = min(config.stop or config.steps, config.steps)
        if self.profile and range_of(self.profile, "profile")[0] >= last:
            why = f"profile = {self.profile} begins after the last step, {last:,}"
            raise UserError(
                f"{why}; three steps are enough: {last // 2}:{last // 2 + 3}"
            )


@dataclass(frozen=True, kw_only=True)
class Pretrain(TextOptions, TrainingOptions):
    """Train to --steps. The same command resumes a run. --fork RUN@STEP, without a
    CONFIG, begins a new one at a checkpoint of another."""

    config: RunConfig
    corpus: str = ""
    """Directory of the corpus, local or on gs://, prepared from --text if it is
    missing. Empty: the corpus that the run used before, or WORKDIR/corpus."""
    samples: tuple[str, ...] = ()
    """Texts that a BERT or an ELMo fills at their [MASK], and a GPT continues, at each
    evaluation, into WORKDIR/samples.jsonl; empty: some in English and in Chinese; off:
    none."""
    other_vocabulary: bool = False
    """Start from --init although its vocabulary has other words than the corpus: each
    row of the table then stands for the word that has its number in the corpus."""

    def __post_init__(self) -> None:
        TextOptions.__post_init__(self)
        TrainingOptions.__post_init__(self)
        self.check_profile(self.config)


def run_prepare(argv: list[str]) -> int:
    """The verb `prepare`."""
    args = parse(Prepare, argv)
    start_jax("")
    from jaxlm.hosts import in_turn

    in_turn(lambda: prepare_corpus(args))  # the others find it done on a shared disk
    return 0


def prepare_corpus(args: Prepare) -> "Corpus":
    """Prepare a corpus, and say what it holds."""
    if not args.text:
        raise UserError("jaxlm prepare needs --text")
    say(*_prepare_corpus(args.config, args, args.corpus))
    corpus = open_shown(args.corpus, args.config.data.cache)
    say(*language_lines(corpus, args.config.smoothing))
    return corpus


def run_pretrain(argv: list[str]) -> int:
    """The verb `pretrain`."""
    args = _parse(argv)
    outcome = pretrain(args, ["pretrain", *argv])
    say_finished(outcome)
    return args.preempted_exit if outcome.interrupted else 0


def pretrain(args: Pretrain, command: list[str]) -> "Outcome":
    """Train, or resume; `command` is for the provenance."""
    config, workdir = args.config, args.workdir
    start_jax(workdir, args.hosts)
    import jax

    from jaxlm.hosts import agree, in_turn
    from jaxlm.open import check_init, check_vocabulary, other_settings, pretrained
    from jaxlm.sharding import check_batch, make_mesh
    from jaxlm.train.fork import fork_of, fork_record
    from jaxlm.train.loop import train
    from jaxlm.train.source import corpus_source
    from jaxlm.train.workdir import code, corpus_of, has_begun, lock, open_workdir
    from jaxlm.xla import check_options

    if args.other_vocabulary and not config.init:
        raise UserError("--other_vocabulary has no effect without --init")

    if args.samples and not config.eval_every:
        raise UserError("--samples has no effect without --eval_every")

    def opened() -> "Corpus":
        # A run that has begun needs its parent and its first parameters no more.
        begins = not has_begun(workdir)
        fork = config.fork if begins else ""
        init = config.init if begins and not fork else ""
        if init:
            check_init(init)
        mesh = make_mesh(config.mesh)
        check_batch(config, mesh)
        check_options(config, mesh)
        held.enter_context(lock(workdir))
        before = fork_of(fork)[0] if fork else workdir
        directory = args.corpus or corpus_of(before)
        prepared = (place(directory) / "manifest.json").exists()
        if not prepared and not args.text:
            remedy = "name it by --corpus, or give --text to prepare one"
            raise UserError(f"no corpus in {directory}: {remedy}")
        if args.text:
            holds = _prepare_corpus(config, args, directory)
            say(*([] if prepared else holds))
        corpus = open_shown(directory, config.data.cache)
        if init:
            other = args.other_vocabulary
            say(*check_vocabulary(init, corpus.tokenizer, other=other))
            say(*other_settings(init, config.model))
        facts = {"fork": fork_record(config, corpus)} if fork else {}
        open_workdir(workdir, config, corpus, command, facts)
        return corpus

    shared: dict[str, Any] = {"--workdir": workdir, "--fallback": args.fallback}
    shared["--samples"] = args.samples
    agree({**dataclasses.asdict(config), **shared, **code()})
    with contextlib.ExitStack() as held:
        corpus = in_turn(opened)
        agree(corpus.digests)
        prompts = None if args.samples == ("off",) else args.samples
        source = corpus_source(config, corpus, prompts)
        if not jax.process_index():
            say(_arithmetic(config, corpus))
        options: Any = {"fallback": args.fallback, "profile": args.profile}
        return train(config, source, workdir, initial=pretrained, **options)


def _parse(argv: list[str]) -> Pretrain:
    """The arguments of `pretrain`; flags of a fork change the config of its parent."""
    fork, workdir, hosts = early(argv, fork="", workdir="", hosts="auto")
    if not fork or HELP & set(argv):
        return parse(Pretrain, argv)
    recipe = "" if argv[0].startswith("-") else argv[0]
    parent = parent_of(fork, workdir, hosts, recipe)
    return of_fork(parse(Pretrain, argv, config=parent), parent)


def parent_of(fork: str, workdir: str, hosts: str, recipe: str = "") -> RunConfig:
    """The config of the run that --fork names."""
    if recipe:
        raise UserError(f"--fork takes the config of its run: leave out {recipe}")
    start_jax(workdir, hosts)
    from jaxlm.train.fork import parent_config

    return parent_config(fork, workdir)


def of_fork(args: Pretrain, parent: RunConfig) -> Pretrain:
    """The arguments with what a fork takes from its parent."""
    from jaxlm.train.fork import forked

    return dataclasses.replace(args, config=forked(args.config, parent))


def _arithmetic(config: RunConfig, corpus: "Corpus") -> str:
    """What will be trained on what: parameters, rows, passes over the text."""
    begin = rows = tokens = 0
    for phase in config.all_phases:
        new = (phase.until - begin) * phase.batch
        begin, rows, tokens = phase.until, rows + new, tokens + new * phase.length
    text = int(corpus.language_tokens(split=0).sum())
    size, steps = config.model.num_parameters, config.steps
    return (
        f"{size:,} parameters; {steps:,} steps: {rows:,} rows, {tokens:,} tokens, "
        f"{tokens / max(1, text):.2g} passes over the {text:,} of the text"
    )


def say_finished(outcome: "Outcome") -> None:
    """Print the digest of a run's last state and, if interrupted, how to resume."""
    print(f"state sha256 {outcome.sha256}", flush=True)
    if outcome.interrupted:
        say(f"stopped at step {outcome.step} after saving; the same command resumes")


def language_lines(corpus: "Corpus", smoothing: float) -> list[str]:
    """A line for each of several languages: its tokens and its share of the rows."""
    from jaxlm.text.languages import smoothed

    tokens = corpus.language_tokens(split=0)
    rows = smoothed(tokens, smoothing)
    return [
        f"  {name:<8} {count:>15,} tokens to train on  {count / tokens.sum():6.2%}  "
        f"rows {share:6.2%} at smoothing {smoothing}"
        for name, count, share in zip(
            corpus.manifest.languages, tokens.tolist(), rows.tolist(), strict=True
        )
        if len(tokens) > 1
    ]


def open_shown(directory: str, cache: str = "") -> "Corpus":
    """A corpus; shows how far it is copied if it is on `gs://`."""
    from jaxlm.text.corpus import open_corpus

    if not is_remote(directory):
        return open_corpus(directory)
    with _progress() as report:
        return open_corpus(directory, cache, report)


def _progress() -> "contextlib.AbstractContextManager[Callable[[Progress], None]]":
    return _bar() if sys.stderr.isatty() else _lines()


def _prepare_corpus(
    config: RunConfig, options: TextOptions, directory: str
) -> list[str]:
    """Prepare a corpus and show progress; returns lines about what it holds."""
    from jaxlm.text.prepare import prepare

    with _progress() as report:
        manifest = prepare(
            config,
            options.text,
            directory,
            options=options,
            tokenizer=options.tokenizer or None,
            processes=options.processes or os.cpu_count() or 1,
            fitting=True,
            report=report,
        )
    holds = (
        f"{directory}: {manifest.tokens:,} tokens, {manifest.sentences:,} sentences, "
        f"{manifest.documents:,} documents ({manifest.held_out:,} held out for "
        f"evaluation by --holdout {options.holdout:g})"
    )
    return [holds, *manifest.notes]


@contextlib.contextmanager
def _bar() -> "Iterator[Callable[[Progress], None]]":
    """A function that shows progress in a bar on the terminal."""
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, rich.TaskID] = {}

        def report(progress: "Progress") -> None:
            name = progress.stage
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=progress.total)
            bar.update(tasks[name], completed=progress.done, total=progress.total)

        yield report


@contextlib.contextmanager
def _lines() -> "Iterator[Callable[[Progress], None]]":
    """Show progress in lines, also where nothing is reported for a time."""
    began: dict[str, float] = {}
    latest: list[Progress] = []
    ended = threading.Event()

    def report(progress: "Progress") -> None:
        began.setdefault(progress.stage, time.monotonic())
        latest[:] = [progress]

    def tell() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LINES):
            for stage, done, total, _, source in latest:
                rate = done / (time.monotonic() - began[stage]) / 1e6
                share = f" of {total / 1e6:,.1f}" if total else ""
                what = f" reading {source}," if source else ""
                say(f"{stage}:{what} {done / 1e6:,.1f}{share} MB, {rate:.1f} MB/s")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()
