"""`jaxlm generate DIR --prompt …`: a GPT continues texts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import tyro

from jaxlm.cli.arguments import parse
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

    from jaxlm.cli.runtime import start_jax

    start_jax()
    import jaxlm

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    model = jaxlm.load(args.directory)
    if not args.json:
        show(args.prompt[0])
    found = model.generate(
        args.prompt, args, scored=args.json, stream=None if args.json else show
    )
    for i, each in enumerate(found):
        prompt = args.prompt[i // args.samples]
        if args.json:
            assert each.scores is not None
            record = {
                "prompt": prompt,
                "text": each.text,
                "tokens": each.tokens.tolist(),
            }
            scores = [round(float(s), 6) for s in each.scores]
            if args.beams:
                record["score"] = scores[0]
            else:
                record["log_probabilities"] = scores
            print(json.dumps(record, ensure_ascii=False))
        elif i:
            print(f"\n---\n{prompt}{each.text}", end="")
    if not args.json:
        print()
    return 0
