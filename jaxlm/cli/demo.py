"""`jaxlm demo`: from the shipped novels to an encoder that fills blanks, in minutes."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from jaxlm.cli.arguments import parse
from jaxlm.cli.pretrain import run_pretrain
from jaxlm.cli.report import run_report
from jaxlm.cli.runtime import say
from jaxlm.config.run import Count
from jaxlm.types import UserError

# Filled while it learns; tests/test_quickstart.py has the ranks of these words.
BLANKS = (
    "I am very much [MASK] to you.",  # obliged
    "Mr. [MASK] was not at home.",  # Knightley, Weston, Darcy …
    "It was a very fine [MASK].",  # man, woman, day
)
_TIMES = 4  # that they are filled


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small BERT on Jane Austen's six novels, which are in the package, and
    watch three blanks: about two minutes on 2 CPU cores."""

    workdir: str = "runs/demo"
    """Run directory; if a run of another recipe or version is there, the next number is
    added to its name."""
    steps: Count = 1000
    """Steps of training."""
    seed: int = 0
    """Seed of the run."""


def run_demo(argv: list[str]) -> int:
    """The verb `demo`."""
    args = parse(Demo, argv)
    stops = [args.steps * i // _TIMES for i in range(1, _TIMES + 1)]
    every = max(1, args.steps // _TIMES)
    flags = f"""
        bert_modern_tiny --text shipped:austen --holdout 0.1 --model.vocab_size 4096
        --steps {args.steps} --seed {args.seed} --save_every {every}
        --eval_every {every} --log.every {every}
    """
    recipe = [*flags.split(), "--hosts", "off", "--samples", *BLANKS]
    workdir, done = "", 0
    for stop in sorted({*stops} - {0}):
        if stop <= done:  # by an earlier invocation
            continue
        # Each call goes on from the checkpoint of the one before.
        words = [*recipe, "--stop", str(stop), "--workdir"]
        if workdir:
            status = run_pretrain([*words, workdir])
        else:
            workdir, status = _begun(args.workdir, words)
        if status:
            return status
        done = _fill(workdir)
    page = f"{workdir}/report.html"
    run_report([workdir, "--out", page])
    _say_next(workdir, page)
    return 0


def _begun(first: str, words: list[str]) -> tuple[str, int]:
    """(run directory, exit status of `pretrain`): the first that takes these words.

    A run that an earlier version left may have other settings, or files that this
    version does not read: it stays as it is.
    """
    others = (f"{first}-{number}" for number in itertools.count(2))
    for workdir in itertools.chain([first], others):
        new = not os.path.exists(workdir)
        try:
            return workdir, run_pretrain([*words, workdir])
        except UserError as error:
            if new:
                raise
            why = str(error).splitlines()[-1].strip()
            say(f"{workdir} is left as it is, a new run begins beside it: {why}")
    raise AssertionError("numbers end")


def _fill(workdir: str) -> int:
    """Print the blanks with the likeliest words of the newest checkpoint; its step."""
    import jaxlm

    model = jaxlm.load(workdir)
    print(f"\nafter {model.step:,} steps")
    for text in BLANKS:
        (guesses,) = model.fill(text, 4)
        words = "  ".join(f"{each.token} {each.probability:.0%}" for each in guesses)
        print(f"  {text:<32}{words}", flush=True)
    print()
    return model.step or 0


def _say_next(workdir: str, page: str) -> None:
    print(
        f"The page of the run is {Path(page).absolute()}. Next:\n"
        f'  jaxlm fill {workdir} "She was very [MASK] to see him."\n'
        "  jaxlm pretrain bert_modern_tiny --text FILES --workdir runs/mine\n"
        "  jaxlm help"
    )
