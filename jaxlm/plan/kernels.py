"""What a kernel does that is not XLA's own: its FLOP are counted from its operands."""

from typing import NamedTuple

from jaxlm.plan.program import Computation, Instruction

# Custom calls that compute nothing.
_FREE = (
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "Sharding",
    "PartitionId",
)


class Kernel(NamedTuple):
    """What a call of a kernel does."""

    flops: float
    moved: float  # bytes
    unknown: str = ""  # its name, if its FLOP are not known


def kernel_work(computation: Computation, call: Instruction) -> Kernel:
    """What a custom call does; an unknown one is counted by its bytes alone."""
    target = call.attributes.partition('custom_call_target="')[2].partition('"')[0]
    if target in _FREE:
        return Kernel(0.0, 0.0)
    given = [computation[x] for x in call.operands if x in computation]
    moved = call.hbm + sum(each.hbm for each in given)
    return Kernel(0.0, moved, call.source.rpartition("/")[2] or target)
