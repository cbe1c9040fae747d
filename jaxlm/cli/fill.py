"""`jaxlm fill DIR "…[MASK]…"`: words for the blanks."""

from dataclasses import dataclass

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The likeliest words for each [MASK] of a text."""

    directory: tyro.conf.Positional[str]
    """Run or model directory of a BERT."""
    sentence: tyro.conf.Positional[str]
    """Text with one [MASK] or several."""
    top_k: int = 5
    """Words a blank."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Fill, "fill", argv)
    start_jax()
    import jaxlm

    found = jaxlm.load(args.directory).fill(args.sentence, args.top_k)
    for number, guesses in enumerate(found, 1):
        words = "  ".join(f"{g.token} {g.probability:.1%}" for g in guesses)
        print(f"[MASK] {number}: {words}")
    return 0
