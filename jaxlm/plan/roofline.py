"""A program and a machine → the least seconds that each instruction takes.

An instruction takes as long as the slowest of its parts would alone: its products at
the peak rate, its bytes at the rate of HBM, its element-wise operations at the rate of
the vector unit. Products that are narrower than the matrix unit are padded to it.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from jaxlm.plan.kernels import kernel_work
from jaxlm.plan.program import (
    Computation,
    Instruction,
    Product,
    Program,
    branches,
    turns,
    work,
)
from jaxlm.plan.topologies import Topology

_LATENCY = 20e-6  # seconds of a collective, however few its bytes
_FREE = re.compile(
    "parameter|constant|get-tuple-element|tuple|bitcast|after-all|partition-id|"
    "replica-id|iota|opt-barrier|send"
)
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
_TRANSFER = r'_xla_megascale_transfer_type="(\w+)"'
_BETWEEN = " between slices"


class Step(NamedTuple):
    """What an instruction does in a training step, all its runs together."""

    instruction: Instruction
    times: int  # that it runs
    seconds: float
    by: str  # matrix, memory, vector, kernel, prefetch, or a collective's name
    flops: float = 0.0
    moved: float = 0.0  # bytes of HBM; of a collective, bytes of its result
    hidden: float = 0.0  # seconds of a collective that the schedule overlaps
    unknown: str = ""  # a kernel whose FLOP are not known


def steps_of(program: Program, machine: Topology) -> list[Step]:
    """All instructions that take time, as often as they run."""
    return _run(program, program.entry, 1, machine)


def _run(program: Program, name: str, times: int, machine: Topology) -> list[Step]:
    computation = program.computations.get(name, {})
    done: list[Step] = []
    begun: dict[str, int] = {}  # collectives that run in the background

    def enter(name: str, times: int) -> list[Step]:
        return _run(program, name, times, machine)

    for each in computation.values():
        if each.op == "while":
            body = each.attribute(r"body=%?([\w.\-]+)")
            done += enter(body, times * turns(program, each))
        elif each.op == "conditional":
            done += max(
                (enter(branch, times) for branch in branches(program, each)),
                key=compute_seconds,
                default=[],
            )
        elif each.op in ("call", "async-start"):
            found = enter(each.called, times)
            if each.op == "async-start" and any(collective(one) for one in found):
                begun[each.name] = len(done)
            done += found
        elif each.op.endswith("-done"):
            _overlap(done, begun, each, machine)
        elif not _FREE.fullmatch(each.op):
            if each.op.endswith("-start") or each.op == "recv":
                begun[each.name] = len(done)
            done.append(_one(program, computation, each, times, machine))
    return done


def _overlap(
    done: list[Step], begun: dict[str, int], end: Instruction, machine: Topology
) -> None:
    """Mark what is computed while a collective runs in the background as hiding it."""
    at = next((begun.pop(name) for name in end.operands if name in begun), None)
    if at is None or not collective(done[at]):
        return
    step = done[at]
    during = compute_seconds(done[at + 1 :])
    done[at] = step._replace(hidden=min(step.seconds, during))


def collective(step: Step) -> bool:
    """Whether a step moves data between chips."""
    return step.by in _COLLECTIVES or between_slices(step)


def between_slices(step: Step) -> bool:
    """Whether a step moves data between slices, over the data centre's network."""
    return step.by.endswith(_BETWEEN)


def compute_seconds(steps: Iterable[Step]) -> float:
    """Seconds of the steps that use a chip's units or its memory."""
    return math.fsum(
        x.seconds for x in steps if not collective(x) and x.by != "prefetch"
    )


def _one(
    program: Program,
    computation: Computation,
    each: Instruction,
    times: int,
    machine: Topology,
) -> Step:
    chip = machine.chip
    kind = each.op.removesuffix("-start")
    if each.op == "fusion" and "all-reduce-scatter" in each.called:
        kind = "reduce-scatter"  # as a TPU may write it
    if kind in _COLLECTIVES:
        size, sent = _sent(computation, each, kind)
        seconds = sent / chip.links + _LATENCY
        return Step(each, times, times * seconds, kind, moved=times * size)
    if each.op == "recv" and (kind := each.attribute(_TRANSFER)):
        size, sent = _sent_between(each, kind, machine.slices)
        seconds = sent / chip.network + _LATENCY
        by = kind.lower().replace("_", "-") + _BETWEEN
        return Step(each, times, times * seconds, by, moved=times * size)
    if each.op == "custom-call":
        found = kernel_work(computation, each)
        seconds = max(found.flops / machine.peak, found.moved / chip.hbm)
        rates = (times * seconds, "kernel", times * found.flops, times * found.moved)
        return Step(each, times, *rates, unknown=found.unknown)
    does = work(program, computation, each)
    parts = {
        "matrix": math.fsum(_matrix_seconds(one, machine) for one in does.products),
        "memory": does.moved / chip.hbm,
        "vector": does.elements / chip.vector,
    }
    by = max(parts, key=parts.__getitem__)
    seconds = parts[by]
    by = "prefetch" if each.op in ("copy-start", "slice-start") else by
    return Step(
        each, times, times * seconds, by, times * does.flops, times * does.moved
    )


def _sent(
    computation: Computation, each: Instruction, kind: str
) -> tuple[float, float]:
    """(bytes of a collective's result, bytes that a chip sends and receives)."""
    given = math.fsum(computation[x].nbytes for x in each.operands if x in computation)
    size = each.nbytes
    if each.op.endswith("-start") and kind != "all-reduce":
        size -= given  # its type has the operands too
    if kind == "all-reduce":
        return size, 2 * size
    return size, given if kind == "reduce-scatter" else size


def _sent_between(each: Instruction, kind: str, slices: int) -> tuple[float, float]:
    """(bytes of the result, bytes that a chip sends to other slices).

    A TPU's compiler cuts a collective over all chips in two: one inside of each slice,
    and a `send` and `recv` by which a chip exchanges its part with other slices.
    """
    size, others = each.results[0].nbytes, (slices - 1) / slices
    share = {"ALL_REDUCE": 2 * others, "REDUCE_SCATTER": slices - 1.0}
    return size, size * share.get(kind, others)


def _matrix_seconds(product: Product, machine: Topology) -> float:
    """Seconds of a product whose sizes are padded to the matrix unit."""
    unit = machine.chip.unit
    small, large = product.sides
    full = product.inner / (math.ceil(product.inner / unit) * unit)
    full *= min(1.0, small / unit) * large / (math.ceil(large / 8) * 8)
    if unit == 1:
        full = 1.0
    rate = machine.peak * (machine.float32 if product.float32 else 1.0)
    return product.flops / (rate * max(full, 1e-3))
