"""Attention forward and backward: the kernel of this device against the plain road.

    python -m tools.bench.attention                        # GPT-2's 16 rows of 1,024
    python -m tools.bench.attention --length 128 --rows 128 --padded
    python -m tools.bench.attention --packed 4             # four texts in each row

Values and gradients are first compared with the plain road in float32. Rounds are
interleaved in one process; the ratio is plain / kernel of each round. On a CPU, which
has no kernel, Pallas' is interpreted and nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp

from jaxlm.mesh import platform
from jaxlm.models.kernels.attention import attention
from jaxlm.models.kernels.fused import fused
from tools.bench.step import spread


def main() -> None:
    """Compare, then time."""
    args = _parse()
    road = "cudnn" if platform() == "gpu" else "splash"
    shape = args.rows, args.length, args.heads, args.width
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]
    facts = {"causal": args.causal}
    if args.padded:
        facts["lengths"] = jnp.arange(1, args.rows + 1) * args.length // args.rows
    if args.packed:
        at_L = jnp.arange(args.length) * args.packed // args.length
        facts["segments"] = jnp.broadcast_to(at_L[None], shape[:2]).astype(jnp.int32)
    rest = {"window": None} | facts
    sides = {
        "plain": functools.partial(attention, road="plain", **facts),
        road: functools.partial(fused, road, **rest),
    }
    # Padding is not compared: what it attends to is nobody's concern.
    weights = inputs.pop()
    if args.padded:
        inside = jnp.arange(args.length)[None] < facts["lengths"][:, None]
        weights *= inside[..., None, None]
    wide = [x.astype(jnp.float32) for x in inputs]
    with jax.default_matmul_precision("float32"):
        exact = _step(sides["plain"])(wide, weights.astype(jnp.float32))
    steps = {name: _step(side) for name, side in sides.items()}
    for name, step in steps.items():
        found = step(inputs, weights)
        errors = map(_error, found, exact)
        print(f"{name:6s}", *(f"{each:.1e}" for each in errors), "off float32")
    if platform() == "cpu":
        return
    seconds = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(args.repeats):
                found = step(inputs, weights)
            jax.block_until_ready(found)
            seconds[name].append((time.perf_counter() - start) / args.repeats)
    flops = 14 * args.rows * args.heads * args.length**2 * args.width
    for name, each in seconds.items():
        rate = flops / (1 + args.causal) / statistics.median(each) / 1e12
        print(
            f"{name:6s} {spread([1e3 * s for s in each], '.2f')} ms, {rate:.0f} TFLOP/s"
        )
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"plain / {road} {spread(ratios, '.2f')}")


def _step(side):
    """(inputs, weights) → [weighted sum of outputs, gradients of it]."""

    def total(inputs, weights):
        return jnp.sum((side(*inputs) * weights).astype(jnp.float32))

    @jax.jit
    def step(inputs, weights):
        value, grads = jax.value_and_grad(total)(inputs, weights)
        return [value, *grads]

    return step


def _error(found, exact) -> float:
    """The largest difference, in parts of the largest value."""
    return float(jnp.abs(found - exact).max() / jnp.abs(exact).max())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "rows": 16,
        "length": 1024,
        "heads": 12,
        "width": 64,
        "packed": 0,
        "rounds": 7,
        "repeats": 20,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--padded", action="store_true", help="rows of all lengths")
    parser.add_argument("--both", dest="causal", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    main()
