"""The matrix products of a traced function, and how fast they run alone.

`matmuls_of` lists them, `MatmulsAlone` times each in its plainest layout, and
`square_rates` is what the machine can do: a large square product by XLA and by torch.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np


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


def square_rates(dtype: str, *, torch_too: bool) -> dict[str, float]:
    """FLOP/s of a large square product by XLA and by torch, in turns: best of five."""
    size = 2048 if jax.devices()[0].platform == "cpu" else 8192
    values = np.random.default_rng(0).standard_normal((size, size), np.float32)
    x = jnp.asarray(values, dtype)
    product = jax.jit(lambda x: x @ x)
    products = {"ours": lambda: jax.block_until_ready(product(x))}
    if torch_too:
        import torch

        y = torch.from_numpy(values).to(getattr(torch, dtype))
        products["torch"] = lambda: y @ y
    best = dict.fromkeys(products, math.inf)
    for warm in range(6):
        for name, run in products.items():
            start = time.perf_counter()
            run()
            if warm:
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: 2 * size**3 / seconds for name, seconds in best.items()}
