"""One train step of ours against transformers + torch, and its share of matmul time.

    python -m tools.bench.step                       # CPU, as in the README
    python -m tools.bench.step --no-torch --dtype bfloat16 --size base --batch 256

Ours is the step of `jaxlm pretrain`. Both sides take the same weights, batch, loss,
clipping, AdamW and hyperparameters, and must agree on the loss for some steps without
dropout before anything is timed. Rounds are interleaved in one process: ours, theirs,
our matmuls alone; ratios are per round.

Freed memory stays with the process for both sides (see `keep_freed_memory`).

The matmul share is the time of the step's own matrix products, each run alone in its
plainest layout with nothing else around it, over the time of the step. The last lines
hold both steps against what the machine can do: a large square product by XLA and by
torch. Where those are equal, the ratio cannot exceed the reciprocal of torch's share.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


from jaxlm.cli.start import keep_freed_memory  # noqa: E402

if "--system-malloc" not in sys.argv:
    keep_freed_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxlm.config import (  # noqa: E402
    BertConfig,
    DataConfig,
    OptimConfig,
    Phase,
    bert,
)
from jaxlm.models.bert import Bert  # noqa: E402
from jaxlm.models.flops import bert_train_flops  # noqa: E402
from jaxlm.objectives import masked_lm  # noqa: E402
from jaxlm.train.optim import make_optimizer  # noqa: E402
from jaxlm.train.state import TrainState  # noqa: E402
from jaxlm.train.step import make_train_step  # noqa: E402
from jaxlm.types import MlmBatch, SpecialTokens  # noqa: E402
from tools.bench.matmuls import (  # noqa: E402
    MatmulsAlone,
    matmuls_of,
    square_rates,
)
from tools.goldens import (  # noqa: E402
    random_batch,
    to_transformers,
    transformers_inputs,
)

OPTIM = OptimConfig(name="adamw", peak=1e-4, warmup=0, decay="constant")


# --- ours ---------------------------------------------------------------------------


class Ours:
    """The step of `jaxlm pretrain`, compiled, and its state."""

    def __init__(self, config, params, batch, *, dtype, remat, deterministic):
        rows, length = batch.tokens.shape
        objective = masked_lm(
            Bert(config, dtype=dtype, remat=remat),
            config,
            DataConfig(),
            Phase(1, length, rows, batch.positions.shape[1]),
            SpecialTokens(0, 1, 2, 3, 4, config.vocab_size),
            seed=0,
            stream="bench",
        )
        optimizer, schedule = make_optimizer(OPTIM, 1, params)
        step = make_train_step(
            objective,
            optimizer,
            schedule,
            accumulate=1,
            seed=0,
            dropout=not deterministic,
        )
        params = jax.tree.map(jnp.array, params)  # the step donates its own copy
        zeros = (jnp.zeros((), jnp.int32) for _ in range(3))
        self.state = TrainState(next(zeros), params, optimizer.init(params), *zeros)
        self.batch = batch
        self.matmuls = matmuls_of(jax.make_jaxpr(step)(self.state, batch).jaxpr)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, batch)
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def losses(self, count: int) -> list[float]:
        """Of `count` steps."""
        out = []
        for _ in range(count):
            self.state, metrics = self.step(self.state, self.batch)
            out.append(metrics["loss"].total)
        return [float(loss) for loss in out]


# --- theirs -------------------------------------------------------------------------


class Theirs:
    """transformers on torch, eager: the same update."""

    def __init__(self, config, params, batch, *, deterministic):
        import torch

        torch.set_num_threads(THREADS)
        self.torch = torch
        self.model = to_transformers(config, params)
        self.model.train(not deterministic)
        groups = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            still = name.lower().endswith(("bias", "layernorm.weight"))
            groups[not still].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": OPTIM.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=OPTIM.peak,
            betas=(OPTIM.b1, OPTIM.b2),
            eps=OPTIM.eps,
        )
        self.inputs = transformers_inputs(batch)

    def losses(self, count: int) -> list[float]:
        """Of `count` steps."""
        out = []
        for _ in range(count):
            loss = self.model(**self.inputs).loss
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIM.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            out.append(loss.item())
        return out


# --- the comparison -----------------------------------------------------------------


def agree(config: BertConfig, params: Any, batch: MlmBatch, steps: int) -> float:
    """Largest relative difference of the losses of `steps` steps without dropout."""
    choices = {"dtype": jnp.float32, "remat": "none", "deterministic": True}
    ours = Ours(config, params, batch, **choices).losses(steps)
    theirs = Theirs(config, params, batch, deterministic=True).losses(steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"losses differ by {worst:.1e}: {ours} against {theirs}")
    return worst


def timed(side: Any, steps: int) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    side.losses(steps)
    return (time.perf_counter() - start) / steps


def spread(values: Iterator[float] | list[float], form: str) -> str:
    """Median (least to greatest)."""
    values = list(values)
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="mini", help="tiny … large (mini: 4 × 256)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--predictions", type=int, default=20)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="none", choices=("none", "dots", "full"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of ours in a round")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument(
        "--system-malloc", action="store_true", help="leave glibc's malloc as it is"
    )
    parser.add_argument("--each", action="store_true", help="list the matmuls")
    args = parser.parse_args()
    if args.dtype != "float32" and not args.no_torch:
        parser.error("torch's side runs in float32: add --no-torch")

    config = bert(args.size, dropout=args.dropout)
    params = Bert(config).init(
        jax.random.key(0), *(jnp.zeros((1, 8), jnp.int32),) * 2, jnp.ones((1, 8), bool)
    )["params"]
    batch = random_batch(
        config, batch=args.batch, length=args.length, predictions=args.predictions
    )
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {THREADS} threads, "
        f"BERT {config.num_layers} × {config.d_model}, V {config.vocab_size}, "
        f"batch {args.batch} × {args.length}, P {args.predictions}, "
        f"dropout {args.dropout}, {args.dtype}"
    )
    if not args.no_torch:
        worst = agree(config, params, batch, steps=5)
        print(f"losses of 5 steps without dropout agree to {worst:.1e} relative")

    ours = Ours(
        config,
        params,
        batch,
        dtype=jnp.dtype(args.dtype),
        remat=args.remat,
        deterministic=args.dropout == 0,
    )
    print(f"our step compiles in {ours.compile_seconds:.1f} s")
    alone = MatmulsAlone(ours.matmuls)
    theirs = None
    if not args.no_torch:
        theirs = Theirs(config, params, batch, deterministic=args.dropout == 0)
        theirs.losses(1)
    ours.losses(2)

    rows = []
    for _ in range(args.rounds):
        mine = timed(ours, args.steps)
        other = timed(theirs, 1) if theirs else math.nan
        products = alone.seconds()
        mine = min(mine, timed(ours, args.steps))
        rows.append((mine, other, products))
    tokens = args.batch * args.length
    total = [sum(s * ours.matmuls[m] for m, s in p.items()) for _, _, p in rows]
    flops = bert_train_flops(
        config, batch=args.batch, length=args.length, predictions=args.predictions
    )
    traced = sum(each.flops * count for each, count in ours.matmuls.items())
    assert args.remat != "none" or traced == flops, (traced, flops)
    print(f"ours    {spread((1e3 * r[0] for r in rows), '.0f')} ms a step")
    print(f"        {spread((tokens / r[0] for r in rows), ',.0f')} tokens/s")
    if theirs:
        print(f"theirs  {spread((1e3 * r[1] for r in rows), '.0f')} ms a step")
        print(f"        {spread((tokens / r[1] for r in rows), ',.0f')} tokens/s")
        print(f"ratio   {spread((r[1] / r[0] for r in rows), '.2f')}")
    print(f"matmuls {spread((1e3 * t for t in total), '.0f')} ms alone")
    shares = [t / r[0] for t, r in zip(total, rows, strict=True)]
    print(f"share   {spread(shares, '.1%')} of the step")
    rates = square_rates(args.dtype, torch_too=theirs is not None)
    best = {"ours": min(r[0] for r in rows), "torch": min(r[1] for r in rows)}
    for name, rate in rates.items():
        done = flops / best[name]
        print(
            f"{name:7} {done / 1e12:.3f} TFLOP/s in the step's matmuls, "
            f"{done / rate:.1%} of its own {rate / 1e12:.3f} in a large square product"
        )
    if args.each:
        for each, seconds in rows[-1][2].items():
            print(f"  {ours.matmuls[each]:4d} × {1e3 * seconds:7.2f} ms  {each}")


if __name__ == "__main__":
    main()
