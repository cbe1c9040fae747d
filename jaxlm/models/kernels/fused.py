"""Attention in one kernel, which writes no scores to memory: when it can be, and how.

    road    on     not for
    splash  TPU    rows whose length its blocks of 128 tokens do not divide
    cudnn   GPU    float32, packed rows, a window to both sides
    both           dropout, a decoder's cache

`unfit` is the whole table, with reasons. Other calls take the plain road of
`attention.py`. Each device runs the kernel on its own rows and heads.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxlm.mesh import batch_axes, platform, row_parts
from jaxlm.types import UserError

Road = Literal["auto", "plain", "splash", "cudnn"]
SAVED = "attention"  # the kernel's results, for policies of `jax.checkpoint`
_OF = {"tpu": "splash", "gpu": "cudnn"}
_BLOCKS = (512, 384, 256, 128)  # the largest that divides a row
# Below, splash is slower: each head of each row is a step of its grid (0.35 us), which
# costs more than moving 128 × 128 scores.
_WORTH = 256


class Call(NamedTuple):
    """What decides the road of a call of `attention`."""

    shape: tuple[int, ...]  # of the queries, [B, L, H, K]
    dtype: Any
    segments: bool = False
    two_sided: bool = False  # a window
    other: str = ""  # what no kernel has: "dropout", "cache"


def unfit(road: str, call: Call) -> str:
    """Why a fused road cannot take a call; "" if it can."""
    here, device = platform(), "TPU" if road == "splash" else "GPU"
    if _OF.get(here) != road:
        return f"{road} needs a {device}, this is a {here.upper()}"
    (rows, length, heads, width), block = call.shape, _BLOCKS[-1]
    tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    dtype = jnp.dtype(call.dtype).name
    reasons = [
        (call.other, f"{road} has no {call.other}"),
        (rows % row_parts(), f"{row_parts()} devices do not divide {rows} rows"),
        (heads % tensor, f"mesh.tensor = {tensor} does not divide the heads"),
    ]
    if road == "splash":
        size = "shorter than" if length < block else "no multiple of"
        why = f"rows of {length} tokens are {size} splash's blocks of {block}"
        reasons += [(length % block, why)]
    else:
        reasons += [
            (dtype not in ("bfloat16", "float16"), f"cudnn has no {dtype}"),
            (call.segments, "cudnn has no packed rows"),
            (call.two_sided, "cudnn has no window to both sides"),
            (width % 8 or width > 128, f"cudnn has no heads of {width}"),
        ]
    return next((why for found, why in reasons if found), "")


def choose(asked: Road, call: Call) -> tuple[str, str]:
    """(the road of a call, why); UserError if the road asked for cannot take it."""
    if asked == "plain":
        return "plain", "as asked"
    road = _OF.get(platform(), "plain") if asked == "auto" else asked
    if road == "plain":
        return "plain", "there is no kernel for a CPU"
    why = unfit(road, call)
    if asked != "auto":
        if why:
            raise UserError(f"attention = {asked}: {why}; pass --attention auto")
        return road, "as asked"
    length = call.shape[1]
    if not why and road == "splash" and length < _WORTH:
        why = f"which is faster in rows of {length} tokens"
    return ("plain", why) if why else (road, "one kernel, without scores in memory")


def said(asked: Road, call: Call, window: int = 0) -> str:
    """A line on the roads that a step takes; "" on a CPU, unless one was asked for.

    `window` is that of a BERT's local layers, to both sides together; 0: it has none.
    """
    if (asked, platform()) == ("auto", "cpu"):
        return ""
    roads = {"": choose(asked, call)}
    if 0 < window // 2 < call.shape[1] - 1:
        roads["local layers "] = choose(asked, call._replace(two_sided=True))
    if len({*roads.values()}) == 1:
        roads = {"": roads[""]}
    found = (f"{of}{road}, {why}" for of, (road, why) in roads.items())
    return f"attention: {'; '.join(found)}"


def fused(
    road: str,
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    segments: Int[Array, "B L"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    **facts: Any,
) -> Float[Array, "B L H K"]:
    """`attention` by the kernel of a road; `facts` are its causal and window."""
    run = functools.partial(splash if road == "splash" else cudnn, **facts)
    if jax.sharding.get_abstract_mesh().shape:
        axes = batch_axes()
        rows, heads = PartitionSpec(axes), PartitionSpec(axes, None, "tensor")
        specs = heads, heads, heads, rows, rows
        run = jax.shard_map(run, in_specs=specs, out_specs=heads, check_vma=False)
    return run(q_BLHK, k_BLHK, v_BLHK, segments, lengths)


def score_scale(q_BLHK: Float[Array, "B L H K"]) -> float:
    """The factor of the scores, 1 / √K."""
    return 1 / math.sqrt(q_BLHK.shape[-1])


def splash(q_BLHK, k_BLHK, v_BLHK, segments, lengths, *, causal, window):
    """Attention by jax's Pallas kernel; on a CPU it is interpreted.

    Padding is a segment of its own, so each query sees itself at least. The kernel of
    the backward pass writes dq once for each block of keys, and sums them up.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    length, heads, width = q_BLHK.shape[1:]
    mask: Any = masks.FullMask((length, length))
    if window is not None:
        sides = window - 1, 0 if causal else window - 1
        mask = masks.LocalMask((length, length), sides, 0)
    elif causal:
        mask = masks.CausalMask((length, length))
    # Heads of 64 would be padded to 128 lanes in memory: tokens are the lanes instead.
    layout = kernels.QKVLayout["SEQ_MINOR" if width % 128 else "HEAD_DIM_MINOR"]
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv")
    blocks: Any = dict.fromkeys(names, next(n for n in _BLOCKS if length % n == 0))
    layouts: Any = dict.fromkeys(("q_layout", "k_layout", "v_layout"), layout)
    sizes = kernels.BlockSizes(**blocks, **layouts, use_fused_bwd_kernel=True)
    kernel: Any = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=SAVED,
        interpret=platform() != "tpu",
    )
    if lengths is not None:
        inside_BL = jnp.arange(length)[None] < lengths[:, None]
        segments = jnp.where(inside_BL, 1 if segments is None else segments, -1)
    ids = None if segments is None else kernels.SegmentIds(segments, segments)
    of_tokens = q_BLHK * score_scale(q_BLHK), k_BLHK, v_BLHK
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in of_tokens)
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v, ids), 1, 2)


def cudnn(q_BLHK, k_BLHK, v_BLHK, segments, lengths, *, causal, window):
    """Attention by cuDNN, which takes neither a mask nor `segments` here.

    A row without tokens would be NaN; it counts as one of one token.
    """
    assert segments is None
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BLHK,
        v_BLHK,
        scale=score_scale(q_BLHK),
        is_causal=causal,
        key_value_seq_lengths=None if lengths is None else jnp.maximum(lengths, 1),
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
