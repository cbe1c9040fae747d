"""One train step of ELMo's LSTMs: ours, torch's, and a plain `lax.scan` of a cell.

    taskset -c 0,1 python -m tools.bench.recurrence       # CPU, as in the README
    python -m tools.bench.recurrence --no-torch --dtype bfloat16 --cells 4096 \\
        --projection 512 --batch 384                      # the original's, accelerator

Forward and backward pass of two layers with a skip connection in both directions, the
mean square of the outputs, and plain SGD; with --vocabulary also a full softmax over so
many words that both directions share, in place of the squares. torch.nn.LSTM has no
clips, so nobody has them while it runs; --clip leaves it out and compares with the
cell alone.

All sides start from the same weights and inputs and must agree on loss and gradients
before anything is timed. Rounds are interleaved in one process; ratios are per round.
Freed memory stays with the process for all sides (see `keep_freed_memory`).
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

THREADS = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

from jaxlm.memory import keep_freed_memory  # noqa: E402

if __name__ == "__main__" and "--system-malloc" not in sys.argv:
    keep_freed_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.models.kernels.head import head_cross_entropy  # noqa: E402
from jaxlm.models.kernels.lstm import Carry, Weights, lstm  # noqa: E402
from tools.bench.step import spread  # noqa: E402

RATE = 1e-3
LAYERS = 2


def lstm_by_scan(
    x_GBLE: Any,
    weights: Weights,
    carry: Carry,
    lengths_GB: Any = None,
    *,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
) -> tuple[Any, Carry]:
    """What `recurrence.lstm` computes, as one would first write it."""

    def clip(x, bound):
        if not bound:
            return x
        return jnp.where(jnp.abs(x) <= bound, x, jnp.sign(x) * bound)

    def one_direction(x_BLE, kernel, bias, projection, cell_BF, out_BD, length_B):
        kernel, bias = kernel.reshape(len(kernel), -1), bias.reshape(1, -1)

        def step(carry, at_t):
            x_BE, t = at_t
            cell_BF, out_BD = carry
            gates = jnp.concatenate([x_BE, out_BD], axis=-1) @ kernel + bias
            i, j, f, o = jnp.split(gates, 4, axis=-1)
            new = jax.nn.sigmoid(f + 1) * cell_BF + jax.nn.sigmoid(i) * jnp.tanh(j)
            new = clip(new, cell_clip)
            out = clip(jax.nn.sigmoid(o) * jnp.tanh(new) @ projection, proj_clip)
            if length_B is None:
                return (new, out), out
            reads = (t < length_B)[:, None]
            kept = jnp.where(reads, new, cell_BF), jnp.where(reads, out, out_BD)
            return kept, jnp.where(reads, out, 0)

        steps = x_BLE.swapaxes(0, 1), jnp.arange(x_BLE.shape[1])
        last, out_LBD = jax.lax.scan(step, (cell_BF, out_BD), steps)
        return out_LBD.swapaxes(0, 1), *last

    both = [
        one_direction(*each, None if lengths_GB is None else lengths_GB[g])
        for g, each in enumerate(zip(x_GBLE, *weights, *carry, strict=True))
    ]
    out, cell, last = (jnp.stack(each) for each in zip(*both, strict=True))
    return out, Carry(cell, last)


# --- one step -----------------------------------------------------------------------


def make_weights(args: argparse.Namespace) -> dict[str, Any]:
    """TensorFlow's start, and a softmax where there is one."""
    random = np.random.default_rng(0)
    d, f = args.projection, args.cells

    def glorot(*shape, fans):
        bound = math.sqrt(6 / fans)
        return random.uniform(-bound, bound, shape).astype(np.float32)

    params: dict[str, Any] = {
        "layers": Weights(
            glorot(LAYERS, 2, 2 * d, 4, f, fans=2 * d + 4 * f),
            random.normal(0, 0.1, (LAYERS, 2, 4, f)).astype(np.float32),
            glorot(LAYERS, 2, f, d, fans=f + d),
        )
    }
    if args.vocabulary:
        table = random.normal(0, d**-0.5, (args.vocabulary, d))
        params["table"] = table.astype(np.float32)
    return params


def make_step(kernel: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """step(params, x_2BLD, targets_2BL) → (params, loss, gradients)."""

    def loss(params, x_2BLD, targets_2BL):
        _, batch, _, width = x_2BLD.shape
        h_2BLD = x_2BLD.astype(dtype)
        for n in range(LAYERS):
            weights = jax.tree.map(lambda leaf, n=n: leaf[n], params["layers"])
            cells = weights.bias.shape[-1]
            zeros = jnp.zeros((2, batch, cells)), jnp.zeros((2, batch, width))
            y_2BLD, _ = kernel(h_2BLD, weights, Carry(*zeros))
            h_2BLD = y_2BLD if n == 0 else y_2BLD + h_2BLD
        if "table" not in params:
            return (h_2BLD.astype(jnp.float32) ** 2).mean()
        # One row a row and direction.
        h_BLD = h_2BLD.reshape(2 * batch, *h_2BLD.shape[2:])
        targets_BL = targets_2BL.reshape(2 * batch, -1)
        ones = jnp.ones(targets_BL.shape)
        table, classes = params["table"], len(params["table"])
        sums = head_cross_entropy(h_BLD, table, targets_BL, ones, classes=classes)
        return sums.loss / sums.weight

    def step(params, x_2BLD, targets_2BL):
        value, grads = jax.value_and_grad(loss)(params, x_2BLD, targets_2BL)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
        return params, value, grads

    return step


class Ours:
    """A step of `make_step`, compiled, and its weights."""

    def __init__(self, kernel, args, x, targets):
        self.params = jax.tree.map(jnp.asarray, make_weights(args))
        self.inputs = jnp.asarray(x), jnp.asarray(targets)
        step = make_step(kernel, jnp.dtype(args.dtype))
        start = time.perf_counter()
        lowered = jax.jit(lambda *a: step(*a)[:2], donate_argnums=0).lower(
            self.params, *self.inputs
        )
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self.first = jax.jit(lambda *a: step(*a)[1:])

    def loss_and_gradients(self) -> tuple[float, dict[str, Any]]:
        """Of the first step."""
        loss, grads = self.first(self.params, *self.inputs)
        named = {**grads["layers"]._asdict(), **grads}
        del named["layers"]
        return float(loss), {name: np.asarray(g) for name, g in named.items()}

    def run(self) -> None:
        """One step."""
        self.params, loss = self.step(self.params, *self.inputs)
        jax.block_until_ready(loss)


class Torch:
    """torch.nn.LSTM(proj_size=…), one a layer and direction: the same step, eager."""

    def __init__(self, args, x, targets):
        import torch

        # That it has no fast path for projections is what is measured.
        warnings.filterwarnings("ignore", "LSTM with projections")
        torch.set_num_threads(THREADS)
        self.torch = torch
        params = make_weights(args)
        d, f = args.projection, args.cells
        self.lstms = [
            [torch.nn.LSTM(d, f, proj_size=d) for _ in range(2)] for _ in range(LAYERS)
        ]
        with torch.no_grad():
            for n, layer in enumerate(self.lstms):
                for g, each in enumerate(layer):
                    weights = [leaf[n, g] for leaf in params["layers"]]
                    self._set(each, *weights)
        self.table = None
        if "table" in params:
            self.table = torch.nn.Parameter(torch.tensor(params["table"]))
        leaves = [
            p for layer in self.lstms for each in layer for p in each.parameters()
        ]
        leaves = [p for p in leaves if p.requires_grad]
        leaves += [] if self.table is None else [self.table]
        self.optimizer = torch.optim.SGD(leaves, lr=RATE)
        # Positions before rows, as torch likes them.
        self.x = torch.tensor(x).transpose(1, 2).contiguous()
        self.targets = torch.tensor(targets).transpose(1, 2).contiguous().long()

    def _set(self, each, kernel, bias, projection):
        torch, width = self.torch, each.input_size
        order = [0, 2, 1, 3]  # i, f, j, o
        rows = torch.tensor(kernel[:, order]).flatten(1).T
        each.weight_ih_l0.copy_(rows[:, :width])
        each.weight_hh_l0.copy_(rows[:, width:])
        each.weight_hr_l0.copy_(torch.tensor(projection).T)
        bias = torch.tensor(bias[order]).clone()
        bias[1] += 1  # the forget gate's
        each.bias_ih_l0.copy_(bias.flatten())
        each.bias_hh_l0.zero_()
        each.bias_hh_l0.requires_grad_(False)

    def loss(self):
        """Of a forward pass."""
        torch, out = self.torch, []
        for g in range(2):
            h = self.x[g]
            for n, layer in enumerate(self.lstms):
                y, _ = layer[g](h)
                h = y if n == 0 else y + h
            out.append(h)
        h = torch.stack(out)
        if self.table is None:
            return (h**2).mean()
        logits = (h @ self.table.T).flatten(0, 2)
        return torch.nn.functional.cross_entropy(logits, self.targets.flatten())

    def loss_and_gradients(self) -> tuple[float, dict[str, Any]]:
        """Of the first step, as ours are laid out."""
        loss = self.loss()
        loss.backward()

        def both(make):
            return np.stack([np.stack([make(e) for e in each]) for each in self.lstms])

        def gates(grad):
            return grad.numpy().reshape(4, -1, *grad.shape[1:])[[0, 2, 1, 3]]

        def kernel(each):
            parts = each.weight_ih_l0.grad, each.weight_hh_l0.grad
            return np.concatenate([gates(p).transpose(2, 0, 1) for p in parts])

        grads = {
            "kernel": both(kernel),
            "bias": both(lambda each: gates(each.bias_ih_l0.grad)),
            "projection": both(lambda each: each.weight_hr_l0.grad.numpy().T),
        }
        if self.table is not None:
            grads["table"] = self.table.grad.numpy().copy()
        self.optimizer.zero_grad()
        return loss.item(), grads

    def run(self) -> None:
        """One step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


# --- the comparison -----------------------------------------------------------------


def agree(sides: dict[str, Any], within: float) -> float:
    """Largest relative difference to the first side, of loss and of any gradient."""
    (_, first), *others = sides.items()
    loss, grads = first.loss_and_gradients()
    worst = 0.0
    for name, side in others:
        other, theirs = side.loss_and_gradients()
        apart = {"loss": abs(loss - other) / abs(other)}
        for leaf, grad in theirs.items():
            apart[leaf] = np.abs(grads[leaf] - grad).max() / np.abs(grad).max()
        if max(apart.values()) > within:
            raise SystemExit(f"{name} differs: {apart}")
        worst = max(worst, *apart.values())
    return worst


def timed(side: Any, steps: int) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    for _ in range(steps):
        side.run()
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--projection", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=0, help="0: no softmax")
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of each side in a round")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--system-malloc", action="store_true")
    args = parser.parse_args()

    random = np.random.default_rng(1)
    shape = 2, args.batch, args.length
    x = random.normal(size=(*shape, args.projection)).astype(np.float32)
    targets = random.integers(0, max(args.vocabulary, 1), shape)
    clips = {"cell_clip": args.clip, "proj_clip": args.clip}
    dtype = jnp.dtype(args.dtype)
    kernel = functools.partial(lstm, dtype=dtype, **clips)
    sides: dict[str, Any] = {
        "ours": Ours(kernel, args, x, targets),
        "scan": Ours(functools.partial(lstm_by_scan, **clips), args, x, targets),
    }
    if not args.no_torch and not args.clip:
        sides["torch"] = Torch(args, x, targets)
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {THREADS} threads, "
        f"2 × {LAYERS} LSTMs of {args.cells} cells to {args.projection}, "
        f"batch {args.batch} × {args.length}, vocabulary {args.vocabulary}, "
        f"{args.dtype}"
    )
    worst = agree(sides, within=1e-4 if dtype == jnp.float32 else 5e-2)
    print(f"loss and gradients agree to {worst:.1e} relative")
    print(f"our step compiles in {sides['ours'].compile_seconds:.1f} s")
    for side in sides.values():
        side.run()
    rows = [
        {name: timed(side, args.steps) for name, side in sides.items()}
        for _ in range(args.rounds)
    ]
    tokens = args.batch * args.length
    for name in sides:
        times = [row[name] for row in rows]
        each = spread([1e3 * t for t in times], ".1f")
        print(f"{name:6s} {each} ms, {tokens / statistics.median(times):,.0f} tokens/s")
    for name in list(sides)[1:]:
        ratio = spread([row[name] / row["ours"] for row in rows], ".2f")
        print(f"{name} / ours {ratio}")


if __name__ == "__main__":
    main()
