"""One train step of ours against transformers + torch, and its share of matmul time.

    python -m tools.bench.step                       # CPU, as in the README
    python -m tools.bench.step --no-torch --dtype bfloat16 --size base --batch 256

Both sides take the same weights, batch, loss, clipping, AdamW and hyperparameters, and
must agree on the loss for some steps without dropout before anything is timed. Rounds
are interleaved in one process: ours, theirs, our matmuls alone; ratios are per round.

Freed memory stays with the process for both sides (see `keep_freed_memory`).

The matmul share is the time of the step's own matrix products, each run alone in its
plainest layout with nothing else around it, over the time of the step.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


from jaxlm.cli.start import keep_freed_memory  # noqa: E402

if "--system-malloc" not in sys.argv:
    keep_freed_memory()

import jax  # noqa: E402
import jax.extend  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from jaxlm.config import BertConfig, bert  # noqa: E402
from jaxlm.losses import cross_entropy  # noqa: E402
from jaxlm.models.bert import Bert  # noqa: E402
from jaxlm.models.flops import bert_train_flops  # noqa: E402
from jaxlm.types import MlmBatch  # noqa: E402
from tools.goldens import (  # noqa: E402
    random_batch,
    to_transformers,
    transformers_inputs,
)

RATE, BETAS, EPS, DECAY, CLIP = 1e-4, (0.9, 0.999), 1e-6, 0.01, 1.0


def decays(path: str) -> bool:
    """Biases and norms do not decay."""
    return not path.lower().endswith(("bias", "scale", "layernorm.weight"))


# --- ours ---------------------------------------------------------------------------


def make_step(
    config: BertConfig, params: Any, *, dtype: Any, remat: Any, deterministic: bool
) -> tuple[Callable, Any]:
    """(step, state) with step(state, batch) → (state, loss), not yet jitted."""
    module = Bert(config, dtype=dtype, remat=remat)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adamw(
            RATE,
            *BETAS,
            eps=EPS,
            weight_decay=DECAY,
            mask=jax.tree_util.tree_map_with_path(
                lambda keys, _: decays(keys[-1].key), params
            ),
        ),
    )

    def step(state, batch: MlmBatch):
        params, opt_state, number = state

        def loss(params):
            out = module.apply(
                {"params": params},
                batch.tokens,
                batch.token_types,
                batch.mask,
                batch.positions,
                deterministic=deterministic,
                rngs={"dropout": jax.random.fold_in(jax.random.key(0), number)},
            )
            mlm = cross_entropy(out.logits, batch.targets, batch.weights)
            nsp = cross_entropy(out.nsp_logits, batch.nsp_labels, batch.nsp_weights)
            return mlm.loss / batch.weights.sum() + nsp.loss / batch.nsp_weights.sum()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, number + 1), value

    params = jax.tree.map(jnp.array, params)  # the step donates its own copy
    return step, (params, optimizer.init(params), jnp.zeros((), jnp.int32))


class Ours:
    """Our step, compiled, and its state."""

    def __init__(self, config, params, batch, **choices):
        step, self.state = make_step(config, params, **choices)
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
            self.state, loss = self.step(self.state, self.batch)
            out.append(loss)
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
            groups[decays(name)].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": DECAY},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=RATE,
            betas=BETAS,
            eps=EPS,
        )
        self.inputs = transformers_inputs(batch)

    def losses(self, count: int) -> list[float]:
        """Of `count` steps."""
        out = []
        for _ in range(count):
            loss = self.model(**self.inputs).loss
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
            out.append(loss.item())
        return out


# --- the step's matrix products -----------------------------------------------------


class Matmul(NamedTuple):
    """lhs [batch, m, k] or [batch, k, m] times rhs [batch, k, n] or [batch, n, k]."""

    batch: int
    m: int
    n: int
    k: int
    lhs_last: bool  # whether k is the last axis of lhs
    rhs_last: bool
    dtype: str

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.n * self.k


def matmuls_of(jaxpr: Any) -> collections.Counter[Matmul]:
    """Every matrix product of a traced function and how often it runs.

    Products with a vector are left out: the sums that they are written for are no
    matrix work.
    """
    found = collections.Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            each = _matmul(eqn)
            if min(each.m, each.n) > 1:
                found[each] += 1
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            for matmul, count in matmuls_of(inner).items():
                found[matmul] += count * times
    return found


def _matmul(eqn: Any) -> Matmul:
    lhs, rhs = (v.aval for v in eqn.invars)
    (lhs_k, rhs_k), (lhs_b, _) = eqn.params["dimension_numbers"]
    batch = math.prod(lhs.shape[i] for i in lhs_b)
    k = math.prod(lhs.shape[i] for i in lhs_k)
    return Matmul(
        batch,
        m=lhs.size // (batch * k),
        n=rhs.size // (batch * k),
        k=k,
        lhs_last=lhs.ndim - 1 in lhs_k,
        rhs_last=rhs.ndim - 1 in rhs_k,
        dtype=str(lhs.dtype),
    )


class MatmulsAlone:
    """Each kind of product, compiled by itself on random operands."""

    def __init__(self, matmuls: collections.Counter[Matmul]):
        self.counts = matmuls
        self.ready = {each: self._compile(each) for each in matmuls}

    @staticmethod
    def _compile(each: Matmul) -> tuple[Callable, Any, Any]:
        b, m, n, k = each[:4]
        lhs = (b, m, k) if each.lhs_last else (b, k, m)
        rhs = (b, n, k) if each.rhs_last else (b, k, n)
        contract = (((2 if each.lhs_last else 1,), (2 if each.rhs_last else 1,)),)
        numbers = (*contract, ((0,), (0,)))
        if b == 1:
            lhs, rhs = lhs[1:], rhs[1:]
            numbers = (
                ((int(each.lhs_last),), (int(each.rhs_last),)),
                ((), ()),
            )
        random = np.random.default_rng(0)
        operands = [
            jnp.asarray(random.standard_normal(s, np.float32), each.dtype)
            for s in (lhs, rhs)
        ]
        function = jax.jit(lambda x, y: jax.lax.dot_general(x, y, numbers))
        jax.block_until_ready(function(*operands))
        return function, *operands

    def seconds(self) -> dict[Matmul, float]:
        """Time of one run of each kind, the lesser of two."""
        return {each: min(self._time(each) for _ in range(2)) for each in self.counts}

    def _time(self, each: Matmul, repeat: int = 2) -> float:
        function, lhs, rhs = self.ready[each]
        start = time.perf_counter()
        for _ in range(repeat):
            out = function(lhs, rhs)
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / repeat


def square_rate(dtype: Any) -> float:
    """FLOP/s of a large square product on this device."""
    size = 8192 if jax.default_backend() == "gpu" else 2048
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), dtype)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


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
    rate, best = square_rate(jnp.dtype(args.dtype)), min(r[0] for r in rows)
    print(
        f"{flops / best / 1e12:.3f} TFLOP/s in matmuls, {flops / best / rate:.1%} of "
        f"the measured square matmul rate of {rate / 1e12:.3f}"
    )
    if args.each:
        for each, seconds in rows[-1][2].items():
            print(f"  {ours.matmuls[each]:4d} × {1e3 * seconds:7.2f} ms  {each}")


if __name__ == "__main__":
    main()
