"""Generation at batch 1 against `transformers.generate`, and what a token costs.

    python -m tools.bench.generate                     # GPT-2 4 × 256, V 50,257
    python -m tools.bench.generate --vocab 8192

Same weights, same prompt, fp32; theirs with its cache. Greedy texts must be equal
before anything is timed. Rounds are interleaved; ratios are per round. Last, our time a
token over the first and the last quarter of a long text: it must not grow.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

from jaxlm.memory import keep_freed_memory  # noqa: E402

keep_freed_memory()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.config import gpt2  # noqa: E402
from jaxlm.generate.decode import CHUNK, decode  # noqa: E402
from jaxlm.generate.sampling import Sampling  # noqa: E402
from jaxlm.models.gpt import Gpt  # noqa: E402
from tools.bench.step import spread  # noqa: E402
from tools.goldens_gpt import random_params, to_transformers  # noqa: E402

GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95)


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="mini")
    parser.add_argument("--vocab", type=int, default=50_257)
    parser.add_argument("--prompt", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(THREADS)
    config = gpt2(args.size, vocab_size=args.vocab)
    params = random_params(config, std=0.05)
    model, module = to_transformers(config, params).eval(), Gpt(config)
    prompt = np.random.RandomState(0).randint(0, args.vocab, args.prompt)

    def ours(sampling: Sampling, count: int = args.tokens) -> np.ndarray:
        sampling = dataclasses.replace(sampling, max_tokens=count)
        found = decode(module, params, [prompt], sampling)
        return found[0].tokens

    def theirs(sampling: Sampling) -> np.ndarray:
        greedy = sampling.temperature == 0
        settings = {} if greedy else {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
        with torch.no_grad():
            found = model.generate(
                torch.tensor(prompt)[None],
                max_new_tokens=args.tokens,
                do_sample=not greedy,
                eos_token_id=None,
                pad_token_id=0,
                **settings,
            )
        return found[0, len(prompt) :].numpy()

    def milliseconds(function, *arguments) -> float:
        start = time.perf_counter()
        function(*arguments)
        return 1e3 * (time.perf_counter() - start) / args.tokens

    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {THREADS} threads, GPT-2 "
        f"{config.num_layers} × {config.d_model}, V {args.vocab}, "
        f"prompt {args.prompt}, {args.tokens} tokens"
    )
    if ours(GREEDY).tolist() != theirs(GREEDY).tolist():
        raise SystemExit("greedy texts differ")
    for name, sampling in (("greedy", GREEDY), ("sampled", SAMPLED)):
        ours(sampling)
        rows = [
            (milliseconds(ours, sampling), milliseconds(theirs, sampling))
            for _ in range(args.rounds)
        ]
        print(f"{name}: ours   {spread([r[0] for r in rows], '.2f')} ms a token")
        print(f"{name}: theirs {spread([r[1] for r in rows], '.2f')} ms a token")
        print(f"{name}: ratio  {spread([r[1] / r[0] for r in rows], '.2f')}")

    most = config.max_length - args.prompt - 1
    clock: list[float] = []

    def watch(rows: list[np.ndarray]) -> list[bool]:
        clock.append(time.perf_counter())
        return [False]

    for _ in range(2):  # the first compiles
        clock.clear()
        greedy = dataclasses.replace(GREEDY, max_tokens=most)
        decode(module, params, [prompt], greedy, watch=watch)
    chunks = 1e3 * np.diff(clock)[:-1] / CHUNK
    quarter = len(chunks) // 4
    first, last = np.median(chunks[:quarter]), np.median(chunks[-quarter:])
    print(
        f"of {most} tokens the first quarter takes {first:.2f} ms a token, "
        f"the last {last:.2f}"
    )


if __name__ == "__main__":
    main()
