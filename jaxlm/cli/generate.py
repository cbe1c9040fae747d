"""`jaxlm generate DIR --prompt …`: a GPT continues texts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from jaxlm.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Continue texts. Equal seed and settings give equal text."""

    directory: tyro.conf.Positional[str]
    """Run or model directory of a GPT."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one starts a document. Of one that does not fit the
    context together with --max_tokens, the end is read that does."""
    max_tokens: int = 100
    """Most tokens of a continuation."""
    temperature: float = 1.0
    """Divides the logits; 0: the likeliest token each time."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that make up this probability; 1: from all."""
    top_p_rule: Literal["hf", "openai"] = "hf"
    """Whether the token that takes the sum past top_p may be drawn (hf) or not."""
    repetition_penalty: float = 1.0
    """Makes tokens that occurred less likely; 1: no."""
    samples: int = 1
    """Continuations of each prompt."""
    seed: int = 0
    """Names all chance."""
    stop: tuple[str, ...] = ()
    """Strings before which a continuation ends."""
    beams: int = 0
    """Beam search with so many beams, of which the --samples best are shown; nothing is
    drawn. 0: none."""
    length_penalty: float = 1.0
    """Beam search: above 0 favours long texts, below short ones."""
    json: bool = False
    """A line of JSON a continuation, with tokens and their log-probabilities."""


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
        args.prompt,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        top_p_rule=args.top_p_rule,
        repetition_penalty=args.repetition_penalty,
        samples=args.samples,
        seed=args.seed,
        stop=args.stop,
        scored=args.json,
        stream=None if args.json else show,
        beams=args.beams,
        length_penalty=args.length_penalty,
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
