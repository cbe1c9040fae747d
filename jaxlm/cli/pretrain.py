"""`jaxlm pretrain CONFIG --workdir DIR`: the main job; the same command resumes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.cli.arguments import Config, parse
from jaxlm.cli.prepare import TextOptions, prepare_corpus
from jaxlm.cli.progress import say
from jaxlm.cli.runtime import in_turn, start_jax
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.text.corpus import Corpus
    from jaxlm.train.loop import Outcome


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What both training verbs take."""

    workdir: str
    """Run directory: configuration, metrics, checkpoints."""
    fallback: bool = False
    """If the newest checkpoint is damaged, resume from the one before it."""
    preempted_exit: int = 75
    """Exit status after a SIGTERM or Ctrl-C whose checkpoint is saved."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(TextOptions, TrainingOptions):
    """Train to --steps. The same command resumes a run."""

    config: Config
    corpus: str = ""
    """Prepared corpus; prepared from --text if it is missing. Empty: the one that the
    workdir used before, or WORKDIR/corpus."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Pretrain, "pretrain", argv)
    start_jax()
    from jaxlm.open.directory import check_init, pretrained
    from jaxlm.sharding import check_batch, make_mesh
    from jaxlm.text.corpus import open_corpus
    from jaxlm.train.loop import train
    from jaxlm.train.source import corpus_source
    from jaxlm.train.workdir import corpus_of, lock, open_workdir

    init = args.config.init
    with contextlib.ExitStack() as held:

        def opened() -> Corpus:
            if init and not os.path.exists(os.path.join(args.workdir, "config.json")):
                check_init(init)  # a run that has begun needs it no more
            check_batch(args.config, make_mesh(args.config.mesh))
            held.enter_context(lock(args.workdir))
            directory = args.corpus or corpus_of(args.workdir)
            prepared = os.path.exists(os.path.join(directory, "manifest.json"))
            if not prepared and not args.text:
                raise UserError(f"no corpus in {directory}: give --text to prepare one")
            if args.text:
                holds = prepare_corpus(args.config, args, directory)
                if not prepared:
                    say(holds)
            corpus = open_corpus(directory)
            open_workdir(args.workdir, args.config, corpus, ["pretrain", *argv])
            return corpus

        corpus = in_turn(opened)
        outcome = train(
            args.config,
            corpus_source(args.config, corpus),
            args.workdir,
            fallback=args.fallback,
            initial=pretrained,
        )
    say_finished(outcome)
    return args.preempted_exit if outcome.interrupted else 0


def say_finished(outcome: Outcome) -> None:
    """Print the digest of the state that a run ends in."""
    print(f"state sha256 {outcome.sha256}", flush=True)
    if outcome.interrupted:
        say(f"stopped at step {outcome.step} after saving; the same command resumes")
