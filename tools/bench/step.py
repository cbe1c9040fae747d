"""One train step of ours against a peer on torch, and its share of matmul time.

    python -m tools.bench.step                       # BERT, CPU, as in the README
    python -m tools.bench.step --family gpt --batch 8 --length 256 --dropout 0
    python -m tools.bench.step --no-torch --dtype bfloat16 --size base --batch 256

Ours is the step of `jaxlm pretrain`; theirs transformers' BERT, or a GPT-2 in plain
torch (`nanogpt.py`), eager or, with --compile, by torch.compile. Both sides take the
same weights, batch, loss, clipping, AdamW and hyperparameters, and must agree on the
loss for some steps without dropout before anything is timed. Rounds are interleaved in
one process: ours, theirs, our matmuls alone; ratios are per round.

Freed memory stays with the process for both sides (see `keep_freed_memory`).

The matmul share is the time of the step's own matrix products, each run alone in its
plainest layout, over the time of the step. The last lines compare both steps with what
the machine can do: a large square product by XLA and by torch. If these are equal, the
ratio cannot exceed the reciprocal of torch's share.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


from jaxlm.memory import keep_freed_memory  # noqa: E402

if "--system-malloc" not in sys.argv:
    keep_freed_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.interpreters.partial_eval import dce_jaxpr  # noqa: E402

from jaxlm.config import (  # noqa: E402
    BertConfig,
    GptConfig,
    OptimConfig,
    Phase,
    RunConfig,
    bert,
    gpt2,
)
from jaxlm.families import build, family_of  # noqa: E402
from jaxlm.models.kernels.head import head_cross_entropy  # noqa: E402
from jaxlm.objectives.objective import Objective  # noqa: E402
from jaxlm.train.optim import make_optimizer  # noqa: E402
from jaxlm.train.state import TrainState, init_params  # noqa: E402
from jaxlm.train.step import make_train_step  # noqa: E402
from jaxlm.types import GptBatch, SpecialTokens  # noqa: E402
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


class Case(NamedTuple):
    """A model and a batch, for both sides."""

    config: BertConfig | GptConfig
    params: Any
    batch: Any
    phase: Phase
    compile: bool  # theirs, by torch.compile


# --- ours ---------------------------------------------------------------------------


def objective_of(case: Case, dtype: Any, remat: Any) -> Objective:
    """As `jaxlm pretrain` has it."""
    config = case.config
    module = build(config, dtype=dtype, remat=remat)
    special = SpecialTokens(0, 1, 2, 3, 4, config.vocab_size)
    manifest: Any = SimpleNamespace(special=special, end_of_document=0, languages=())
    run = RunConfig(model=config)
    return family_of(config).objective(run, module, manifest, case.phase, "bench")


class Ours:
    """The step of `jaxlm pretrain`, compiled, and its state."""

    def __init__(self, case: Case, *, dtype, remat, deterministic):
        optimizer, schedule = make_optimizer(OPTIM, 1, case.params)
        step = make_train_step(
            objective_of(case, dtype, remat),
            optimizer,
            schedule,
            accumulate=1,
            dropout=not deterministic,
        )
        params = jax.tree.map(jnp.array, case.params)  # the step donates its own copy
        zeros = (jnp.zeros((), jnp.int32) for _ in range(3))
        self.state = TrainState(next(zeros), params, optimizer.init(params), *zeros)
        self.batch = case.batch
        traced = jax.make_jaxpr(step)(self.state, self.batch, 0).jaxpr
        # XLA drops what no output needs, such as logits that the loss computes itself.
        used, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
        self.matmuls = matmuls_of(used)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, self.batch, 0)
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    @property
    def temporary_bytes(self) -> int:
        """What the step needs beside its arguments and results, as compiled."""
        return self.step.memory_analysis().temp_size_in_bytes

    def losses(self, count: int) -> list[float]:
        """Of `count` steps."""
        out = []
        for _ in range(count):
            self.state, metrics = self.step(self.state, self.batch, 0)
            out.append(metrics["loss"].total)
        return [float(loss) for loss in out]


# --- theirs -------------------------------------------------------------------------


def torch_loss(case: Case, *, deterministic: bool) -> tuple[Any, Callable[[], Any]]:
    """(the model on torch, what gives the loss of the batch)."""
    import torch

    config = case.config
    if isinstance(config, GptConfig):
        from tools.bench import nanogpt

        model = nanogpt.load(config, case.params)
        tokens, targets = (
            torch.from_numpy(np.array(x, np.int64))
            for x in (case.batch.tokens, case.batch.targets)
        )
        forward: Any = torch.compile(model) if case.compile else model
        model.train(not deterministic)
        return model, lambda: forward(tokens, targets)
    model = to_transformers(config, case.params)
    model.train(not deterministic)
    inputs = transformers_inputs(case.batch)
    return model, lambda: model(**inputs).loss


class Theirs:
    """The same update on torch."""

    def __init__(self, case: Case, *, deterministic):
        import torch

        torch.set_num_threads(THREADS)
        self.torch = torch
        self.model, self.loss = torch_loss(case, deterministic=deterministic)
        groups = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            norm = "norm" in name.lower() or ".ln_" in name or name.startswith("ln_")
            groups[not (norm or name.endswith("bias"))].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": OPTIM.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=OPTIM.peak,
            betas=(OPTIM.b1, OPTIM.b2),
            eps=OPTIM.eps,
        )

    def losses(self, count: int) -> list[float]:
        """Of `count` steps."""
        out = []
        for _ in range(count):
            loss = self.loss()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIM.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            out.append(loss.item())
        return out


# --- the comparison -----------------------------------------------------------------


def agree(case: Case, steps: int) -> float:
    """Largest relative difference of the losses of `steps` steps without dropout."""
    choices = {"dtype": jnp.float32, "remat": "none", "deterministic": True}
    still = case._replace(config=dataclasses.replace(case.config, dropout=0.0))
    ours = Ours(still, **choices).losses(steps)
    theirs = Theirs(still, deterministic=True).losses(steps)
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"losses differ by {worst:.1e}: {ours} against {theirs}")
    return worst


def loss_bytes(case: Case, at_once: int) -> int:
    """What a decoder's loss and its gradients need beside arguments and results."""
    rows, length = case.batch.tokens.shape
    config = case.config

    def loss(x, head, targets, weights):
        classes = config.vocab_size
        return head_cross_entropy(
            x, head, targets, weights, classes=classes, at_once=at_once
        ).loss

    shapes = (
        jax.ShapeDtypeStruct((rows, length, config.d_model), jnp.float32),
        jax.ShapeDtypeStruct((config.vocab_size, config.d_model), jnp.float32),
        case.batch.targets,
        case.batch.weights,
    )
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


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


def case_of(args: argparse.Namespace) -> Case:
    """The model and the batch that were asked for."""
    phase = Phase(
        until=1,
        length=args.length,
        batch=args.batch,
        predictions=args.predictions,
    )
    if args.family == "gpt":
        config: Any = gpt2(args.size, dropout=args.dropout)
        random = np.random.default_rng(0)
        tokens = random.integers(0, config.vocab_size, (args.batch, args.length + 1))
        shape = args.batch, args.length
        batch: Any = GptBatch(
            tokens=jnp.asarray(tokens[:, :-1], jnp.int32),
            targets=jnp.asarray(tokens[:, 1:], jnp.int32),
            weights=jnp.ones(shape),
            positions=jnp.broadcast_to(jnp.arange(args.length), shape),
            segments=jnp.ones(shape, jnp.int32),
        )
    else:
        config = bert(args.size, dropout=args.dropout)
        batch = random_batch(
            config, batch=args.batch, length=args.length, predictions=args.predictions
        )
    params = init_params(build(config), 0)
    return Case(config, params, batch, phase, args.compile)


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="bert", choices=("bert", "gpt"))
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
    parser.add_argument("--compile", action="store_true", help="torch.compile (GPT)")
    parser.add_argument(
        "--system-malloc", action="store_true", help="leave glibc's malloc as it is"
    )
    parser.add_argument("--each", action="store_true", help="list the matmuls")
    args = parser.parse_args()
    if args.dtype != "float32" and not args.no_torch:
        parser.error("torch's side runs in float32: add --no-torch")

    case = case_of(args)
    config = case.config
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {THREADS} threads, "
        f"{args.family.upper()} {config.num_layers} × {config.d_model}, "
        f"V {config.vocab_size}, batch {args.batch} × {args.length}, "
        f"P {args.predictions}, dropout {args.dropout}, {args.dtype}"
    )
    if not args.no_torch:
        worst = agree(case, steps=5)
        print(f"losses of 5 steps without dropout agree to {worst:.1e} relative")

    ours = Ours(
        case,
        dtype=jnp.dtype(args.dtype),
        remat=args.remat,
        deterministic=args.dropout == 0,
    )
    print(
        f"our step compiles in {ours.compile_seconds:.1f} s, needs "
        f"{ours.temporary_bytes / 1e6:,.0f} MB beside its state"
    )
    if args.family == "gpt":
        cut, whole = loss_bytes(case, 1 << 25), loss_bytes(case, 1 << 62)
        print(
            f"the loss alone needs {cut / 1e6:,.0f} MB, with all logits at once "
            f"{whole / 1e6:,.0f} MB"
        )
    alone = MatmulsAlone(ours.matmuls)
    theirs = None
    if not args.no_torch:
        theirs = Theirs(case, deterministic=args.dropout == 0)
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
    flops = family_of(config).train_flops(RunConfig(model=config), case.phase)
    traced = sum(each.flops * count for each, count in ours.matmuls.items())
    # A decoder's head is padded to a multiple of 128 rows.
    assert args.remat != "none" or flops <= traced < 1.01 * flops, (traced, flops)
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
