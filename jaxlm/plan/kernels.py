"""What a kernel does that is not XLA's own: its FLOP are counted from its shapes."""

from typing import NamedTuple

from jaxlm.plan.program import Computation, Instruction

# Custom calls that compute nothing.
_FREE = (
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "GatherScatterIndicesBitpacked",
    "Sharding",
    "PartitionId",
)
_MOVE = ("ZeroCrop",)  # custom calls that only read and write
_TILE = 128  # tokens of a block of cuDNN's


class Kernel(NamedTuple):
    """What a call of a kernel does."""

    flops: float
    moved: float  # bytes
    unknown: str = ""  # its name, if its FLOP are not known


def kernel_work(computation: Computation, call: Instruction) -> Kernel:
    """What a custom call does; an unknown one is counted by its bytes alone."""
    target = call.attribute(r'custom_call_target="([^"]*)"')
    if target in _FREE:
        return Kernel(0.0, 0.0)
    given = [computation[x] for x in call.operands if x in computation]
    moved = call.hbm + sum(each.hbm for each in given)
    flops = _attention(target, call, given)
    name = call.attribute(r'op_name="([^"]*)"').rpartition("/")[2]
    if name in ("", "pallas_call"):
        name = call.name.rpartition(".")[0] or call.name
    return Kernel(flops, moved, "" if flops or target in _MOVE else name)


def _attention(target: str, call: Instruction, given: list[Instruction]) -> float:
    """FLOP of jax's splash kernel or of cuDNN's attention; 0 of another kernel.

    A forward pass has two products of all pairs of positions, a backward pass five.
    Blocks that a mask hides are left out.
    """
    if target.startswith("__cudnn$fmha"):
        queries, backward = call.results[0].size, "Backward" in target
        length = call.results[0].shape[-2]
        causal, blocks = '"CAUSAL"' in call.attributes, max(1, length // _TILE)
        seen = (blocks + 1) / (2 * blocks) if causal else 1.0
    elif call.name.startswith("splash_mha"):
        arrays = [each.results[0] for each in given]
        queries = next(each.size for each in arrays if len(each.shape) == 4)
        length, backward = call.results[-1].shape[-2], "dkv" in call.name
        seen = _seen([each.shape for each in arrays if each.dtype == "s8"])
    else:
        return 0.0
    return (10.0 if backward else 4.0) * queries * length * seen


def _seen(masks: list[tuple[int, ...]]) -> float:
    """The share of splash's blocks that its mask leaves.

    The mask has a row for each block of queries. A window has shorter rows; rows of all
    blocks are causal, since without a mask there is none.
    """
    if not masks:
        return 1.0
    *_, rows, columns = masks[0]
    few, many = sorted((rows, columns))
    return (many + 1) / (2 * many) if few == many else few / many
