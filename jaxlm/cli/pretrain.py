"""`jaxlm pretrain CONFIG --workdir DIR`: the main job; the same command resumes."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass

from jaxlm.cli.arguments import Config, parse, say
from jaxlm.cli.prepare import TextOptions, prepare_corpus


@dataclass(frozen=True, kw_only=True)
class Pretrain(TextOptions):
    """Train to --steps. Run the same command again to resume."""

    config: Config
    workdir: str
    """Run directory: configuration, metrics, checkpoints."""
    corpus: str = ""
    """Prepared corpus; prepared from --text where it is missing. Empty: the one that
    the workdir used before, or WORKDIR/corpus."""
    fallback: bool = False
    """Where the newest checkpoint is damaged, go on from the one before."""
    preempted_exit: int = 75
    """Exit status after a SIGTERM or Ctrl-C whose checkpoint is saved."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Pretrain, "pretrain", argv)

    from jaxlm.cli.runtime import in_turn, start_jax

    start_jax()
    from jaxlm.open import initial
    from jaxlm.text.corpus import open_corpus
    from jaxlm.train.loop import pretrain
    from jaxlm.train.workdir import corpus_of, lock, open_workdir
    from jaxlm.types import UserError

    with contextlib.ExitStack() as held:

        def opened():
            held.enter_context(lock(args.workdir))
            directory = args.corpus or corpus_of(args.workdir)
            if args.text:
                prepare_corpus(args.config, args, directory)
            elif not os.path.exists(os.path.join(directory, "manifest.json")):
                raise UserError(f"no corpus in {directory}: give --text to prepare one")
            corpus = open_corpus(directory)
            open_workdir(args.workdir, args.config, corpus, ["pretrain", *argv])
            return corpus

        corpus = in_turn(opened)
        outcome = pretrain(
            args.config,
            corpus,
            args.workdir,
            fallback=args.fallback,
            initial=initial(args.config.init),
        )
    print(f"state sha256 {outcome.sha256}")
    sys.stdout.flush()
    if outcome.interrupted:
        say(f"stopped at step {outcome.step} after saving; the same command goes on")
        return args.preempted_exit
    return 0
