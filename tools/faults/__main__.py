"""Harm jaxlm in every way that is known, and end with 0 only if nothing was silent.

    python -m tools.faults                # 15 minutes on 2 cores
    python -m tools.faults --short        # what CI runs, 3 minutes
    python -m tools.faults --only flips --seed 3

Right is the result of an unharmed run, to the bit, or a refusal in one line. Wrong are
another result with exit 0 (silent), a traceback or a crash, a failure without a line of
jaxlm's (unclear), and a command that does not end (hung).
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tools.faults import trials
from tools.faults.commands import FAULTS, SAID, SAME
from tools.faults.trials import Trial
from tools.faults.world import World

KINDS = ("flips", "kills", "signals", "disks", "divergence")


def main() -> int:
    """Make the world, harm it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a tenth of the trials")
    parser.add_argument("--seed", type=int, default=0, help="of what is harmed")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument(
        "--keep", type=Path, help="directory for the world, kept, and for trials.jsonl"
    )
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Else a job in the background of a shell ignores Ctrl-C, and so do its commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    here = Path(args.keep or tempfile.mkdtemp(prefix="jaxlm-faults-"))
    cache = here / "xla"  # all processes compile the same few programs
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    world, scratch = World(here / "world"), here / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    if not world.here.exists():
        world.make()
    _say(f"a corpus, a run and an export of each family: {_since(began)}")
    found: list[Trial] = []
    for kind, attempts in _plan(world, scratch, args.short, args.seed).items():
        if kind not in args.only:
            continue
        start, before = time.monotonic(), len(found)
        for trial in attempts:
            found.append(trial)
            if trial.verdict in FAULTS:
                _say(f"{trial.verdict}: {trial.row}: {trial.what}\n{trial.said}\n")
        _say(f"{kind}: {len(found) - before} trials in {_since(start)}")
    lines = [json.dumps(trial._asdict()) for trial in found]
    (here / "trials.jsonl").write_text("\n".join(lines) + "\n")
    if not args.keep:
        shutil.rmtree(here)
    _table(found)
    faults = sum(trial.verdict in FAULTS for trial in found)
    print(f"\n{len(found)} trials, {faults} faults, {_since(began)}")
    return 1 if faults else 0


def _plan(
    world: World, scratch: Path, short: bool, seed: int
) -> dict[str, Iterator[Trial]]:
    flips, torn, killed = (40, 24, 5) if short else (304, 120, 30)
    return {
        "flips": trials.damaged_files(world, scratch, flips, torn, seed),
        "kills": trials.kills(world, scratch, killed, seed),
        "signals": trials.signals(world, scratch, 1 if short else 4),
        "disks": trials.full_disks(world, scratch, [40] if short else [40, 300, 900]),
        "divergence": trials.divergence(world, scratch),
    }


def _table(found: list[Trial]) -> None:
    """One line a row: how many trials had which verdict."""
    verdicts = (SAME, SAID, *FAULTS)
    print(f"{'':28}{'trials':>8}" + "".join(f"{each:>11}" for each in verdicts))
    ordered = sorted(found, key=lambda trial: trial.row)
    for row, group in itertools.groupby(ordered, key=lambda trial: trial.row):
        counts = Counter(trial.verdict for trial in group)
        cells = "".join(f"{counts[each] or '':>11}" for each in verdicts)
        print(f"{row:28}{counts.total():>8}{cells}")


def _since(start: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    return f"{minutes} min {seconds} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
