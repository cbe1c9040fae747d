"""`jaxlm generate DIR --prompt …`: a GPT continues texts."""

import json
from dataclasses import dataclass
from typing import Any

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax
from jaxlm.generate.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Generate(Sampling):
    """Continue texts. Equal seed and settings give equal text."""

    directory: tyro.conf.Positional[str]
    """Run or model directory of a GPT."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one starts a document. A prompt that does not fit the
    context together with --max_tokens is truncated on the left."""
    json: bool = False
    """Print a line of JSON for each continuation, with tokens and log-probabilities."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Generate, "generate", argv)
    start_jax()
    import jaxlm

    # The first prompt is printed together with the first text behind it: by then the
    # model has accepted all arguments.
    unprinted = list(args.prompt[:1])

    def show(text: str) -> None:
        print(*unprinted, text, sep="", end="", flush=True)
        unprinted.clear()

    found = jaxlm.load(args.directory).generate(
        args.prompt, args, scored=args.json, stream=None if args.json else show
    )
    for i, each in enumerate(found):
        prompt = args.prompt[i // args.samples]
        if args.json:
            record = _record(prompt, each, beams=args.beams > 0)
            print(json.dumps(record, ensure_ascii=False))
        elif i:
            print(f"\n---\n{prompt}{each.text}", end="")
        else:
            show("")
    if not args.json:
        print()
    return 0


def _record(prompt: str, found: Any, *, beams: bool) -> dict[str, Any]:
    scores = [round(float(score), 6) for score in found.scores]
    scored = {"score": scores[0]} if beams else {"log_probabilities": scores}
    tokens = found.tokens.tolist()
    return {"prompt": prompt, "text": found.text, "tokens": tokens, **scored}
