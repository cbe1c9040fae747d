"""A layer of LSTMs over whole rows, several LSTMs (directions) in one call.

The cell of Sak et al. 2014 as ELMo has it (TensorFlow's `LSTMCell` with `num_proj`,
`cell_clip` and `proj_clip`), with σ for the sigmoid and the gates in this order:

    i, j, f, o = [x; h] · kernel + bias
    c' = clip(σ(f + 1) · c + σ(i) · tanh(j))         the 1 is not part of the bias
    h' = clip((σ(o) · tanh(c')) · projection)        the output and the next h

Without a projection, h' = σ(o) · tanh(c') (torch's LSTM). A row that has ended keeps
its state, and its outputs are 0 (`dynamic_rnn`). The gradient of a clip is 1 up to and
at the bound, 0 beyond (as in TensorFlow's `minimum` and `maximum`, and torch's
`clamp`). The reference is a plain scan of the cell: `tools/bench/recurrence.py`.

The gradient is written by hand. Autodiff of a scan adds to an array as large as the
weights at every step. Here the loop keeps the gradients of the gates, and one product
after the loop gives the gradient of the weights. The forward pass stores the factors of
the chain rule through a cell instead of the gates, so that a backward step is a
product, two multiplications and a product. Features come before rows, since weights ·
[features, rows] is three quarters faster than its transpose on a CPU.

With `dtype` bfloat16, the operands of products, the stored factors and the outputs are
bfloat16; sums of products, cells, states and all weight gradients are float32.

Letters beyond `types.py`: G LSTMs side by side (directions), E width of the input, F
cells, I = E + D rows of the kernel, Q = 4 F.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_FORGET = np.array([0, 0, 1, 0], np.float32).reshape(4, 1, 1)
# σ(x) = ½ + ½ tanh(½ x): all four gates are one tanh.
_SCALE = np.array([0.5, 1, 0.5, 0.5], np.float32).reshape(4, 1, 1)
_SHIFT = np.array([0.5, 0, 0.5, 0.5], np.float32).reshape(4, 1, 1)


class Weights(NamedTuple):
    """The weights of a layer, float32."""

    kernel: Float[Array, "G I 4 F"]  # rows of the input, then of the output before
    bias: Float[Array, "G 4 F"]
    projection: Float[Array, "G F D"] | None  # None: there is none, D = F


class Carry(NamedTuple):
    """The state of a layer between positions, float32."""

    cell: Float[Array, "G B F"]
    out: Float[Array, "G B D"]


class _Options(NamedTuple):
    cell_clip: float
    proj_clip: float
    dtype: Any


class _Factors(NamedTuple):
    """The factors by which a backward step multiplies gradients, [F, B] each."""

    i: Any  # the cell's gradient, to each gate's sum
    j: Any
    f: Any
    o: Any  # the gradient of what goes to the projection, to this gate's sum
    cell: Any  # the cell's gradient, to the cell before
    opened: Any  # the gradient of what goes to the projection, to the cell


def lstm(
    x_GBLE: Float[Array, "G B L E"],
    weights: Weights,
    carry: Carry,
    lengths_GB: Int[Array, "G B"] | None = None,
    *,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    dtype: Any = jnp.float32,
) -> tuple[Float[Array, "G B L D"], Carry]:
    """(outputs at every position, the carry at the end of each row).

    Args:
        x_GBLE: inputs in the order of reading.
        carry: the state before the first position.
        lengths_GB: number of positions in each row; None: L.
        cell_clip: bound of the cells; 0: none.
        proj_clip: bound of the outputs; 0: none.
        dtype: of the products' operands and of the outputs.
    """
    options = _Options(cell_clip, proj_clip, jnp.dtype(dtype))

    def in_one_loop(*given):
        return jax.vmap(functools.partial(_lstm, options))(*given)

    def in_a_loop_each(*given):
        each = [
            _lstm(options, *jax.tree.map(lambda leaf, g=g: leaf[g], given))
            for g in range(len(x_GBLE))
        ]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *each)

    # On a CPU the loops of the directions run side by side.
    given = x_GBLE.transpose(0, 3, 2, 1).astype(dtype), weights, carry, lengths_GB
    return jax.lax.platform_dependent(*given, cpu=in_a_loop_each, default=in_one_loop)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(options, x_ELB, weights, carry, lengths_B):
    """`lstm` of one direction."""
    return _forward(options, x_ELB, weights, carry, lengths_B)[0]


def _forward(options, x_ELB, weights, carry, lengths_B):
    dtype, (width, length, _) = options.dtype, x_ELB.shape
    kernel_IQ = weights.kernel.reshape(len(weights.kernel), -1)
    x_QLB = _product("eq,elb->qlb", kernel_IQ[:width].astype(dtype), x_ELB, dtype)
    again_QD, bias_4F1 = kernel_IQ[width:].T.astype(dtype), weights.bias[..., None]
    down_DF = None if weights.projection is None else weights.projection.T.astype(dtype)

    def step(before, at_t):
        (cell_FB, out_DB), (t, x_QB) = before, at_t
        again_QB = _product("qd,db->qb", again_QD, out_DB.astype(dtype))
        sum_4FB = (x_QB.astype(jnp.float32) + again_QB).reshape(4, *cell_FB.shape)
        gate_4FB = jnp.tanh((sum_4FB + (bias_4F1 + _FORGET)) * _SCALE) * _SCALE + _SHIFT
        i, j, f, o = gate_4FB
        free_FB = f * cell_FB + i * j
        new_FB = _clip(free_FB, options.cell_clip)
        squashed_FB = jnp.tanh(new_FB)
        inside_FB = _inside(free_FB, options.cell_clip)
        factors = _Factors(
            i=jnp.where(inside_FB, j * i * (1 - i), 0),
            j=jnp.where(inside_FB, i * (1 - j * j), 0),
            f=jnp.where(inside_FB, cell_FB * f * (1 - f), 0),
            o=squashed_FB * o * (1 - o),
            cell=jnp.where(inside_FB, f, 0),
            opened=o * (1 - squashed_FB * squashed_FB),
        )
        open_FB = projected_DB = o * squashed_FB
        if down_DF is not None:
            projected_DB = _product("df,fb->db", down_DF, open_FB.astype(dtype))
        new_DB = _clip(projected_DB, options.proj_clip)
        if lengths_B is not None:  # a row that has ended keeps its state
            reads_1B = (t < lengths_B)[None]
            keep, ended = functools.partial(jnp.where, reads_1B), (0, 0, 0, 0, 1, 0)
            factors = jax.tree.map(keep, factors, _Factors(*ended))
            new_FB, new_DB = keep(new_FB, cell_FB), keep(new_DB, out_DB)
        kept = jax.tree.map(lambda x: x.astype(dtype), (factors, open_FB))
        return (new_FB, new_DB), (*kept, projected_DB)

    start = carry.cell.T.astype(jnp.float32), carry.out.T.astype(jnp.float32)
    positions = jnp.arange(length), x_QLB.swapaxes(0, 1)
    (cell_FB, out_DB), kept = jax.lax.scan(step, start, positions)
    out_LDB = _clip(kept[2], options.proj_clip)
    if lengths_B is not None:
        reads_LB = jnp.arange(len(out_LDB))[:, None] < lengths_B[None]
        out_LDB = jnp.where(reads_LB[:, None], out_LDB, 0)
    out_BLD = out_LDB.transpose(2, 0, 1).astype(dtype)
    saved = x_ELB, weights, start[1], lengths_B, kept
    return (out_BLD, Carry(cell_FB.T, out_DB.T)), saved


def _backward(options, saved, cotangents):
    """The gradients of `_lstm`; dNAME is the gradient of the loss in NAME."""
    x_ELB, weights, start_DB, lengths_B, (factors, open_LFB, projected_LDB) = saved
    dout_BLD, dcarry = cotangents
    dtype, width = options.dtype, len(x_ELB)
    kernel_IQ = weights.kernel.reshape(len(weights.kernel), -1).astype(dtype)
    again_DQ = kernel_IQ[width:]
    down_FD = None if weights.projection is None else weights.projection.astype(dtype)

    def step(after, at_t):
        (dcell_FB, dout_DB), (t, factors, projected_DB, dout_at_DB) = after, at_t
        factors = jax.tree.map(lambda x: x.astype(jnp.float32), factors)
        inside_DB = _inside(projected_DB, options.proj_clip)
        if lengths_B is not None:
            inside_DB &= (t < lengths_B)[None]
        dopen_FB = dprojected_DB = jnp.where(inside_DB, dout_DB + dout_at_DB, 0)
        if down_FD is not None:
            dopen_FB = _product("fd,db->fb", down_FD, dprojected_DB.astype(dtype))
        dsum_FB = dcell_FB + dopen_FB * factors.opened
        dgates = [each * dsum_FB for each in factors[:3]] + [factors.o * dopen_FB]
        dgate_QB = jnp.concatenate(dgates).astype(dtype)
        before_DB = _product("dq,qb->db", again_DQ, dgate_QB)
        if lengths_B is not None:
            before_DB = jnp.where((t < lengths_B)[None], before_DB, dout_DB)
        kept = dgate_QB, dprojected_DB.astype(dtype)
        return (dsum_FB * factors.cell, before_DB), kept

    dout_LDB = dout_BLD.transpose(1, 2, 0).astype(jnp.float32)
    positions = jnp.arange(len(dout_LDB)), factors, projected_LDB, dout_LDB
    (dcell_FB, dout_DB), (dgates_LQB, dprojected_LDB) = jax.lax.scan(
        step, (dcarry.cell.T, dcarry.out.T), positions, reverse=True
    )
    outs_LDB = _clip(projected_LDB, options.proj_clip)[:-1]
    before_LDB = jnp.concatenate([start_DB[None], outs_LDB]).astype(dtype)
    both_LIB = jnp.concatenate([x_ELB.swapaxes(0, 1), before_LDB], axis=1)
    ones_L1B = jnp.ones((len(dout_LDB), 1, dout_BLD.shape[0]), dtype)
    dweights = Weights(
        _over_positions(both_LIB, dgates_LQB).reshape(weights.kernel.shape),
        _over_positions(ones_L1B, dgates_LQB).reshape(weights.bias.shape),
        None if down_FD is None else _over_positions(open_LFB, dprojected_LDB),
    )
    dgates_QLB = dgates_LQB.swapaxes(0, 1)
    dx_ELB = _product("eq,qlb->elb", kernel_IQ[:width], dgates_QLB, dtype)
    return dx_ELB, dweights, Carry(dcell_FB.T, dout_DB.T), None


_lstm.defvjp(_forward, _backward)


def flip_backward(
    x_GBLD: Float[Array, "2 B L D"], lengths_B: Int[Array, "B"] | None
) -> Float[Array, "2 B L D"]:
    """Reverse each row of the second direction within its length."""
    forward_BLD, backward_BLD = x_GBLD
    if lengths_B is None:
        return jnp.stack([forward_BLD, backward_BLD[:, ::-1]])
    at_1L, end_B1 = jnp.arange(x_GBLD.shape[2])[None], lengths_B[:, None]
    from_BL = jnp.where(at_1L < end_B1, end_B1 - 1 - at_1L, at_1L)
    reversed_BLD = jnp.take_along_axis(backward_BLD, from_BL[..., None], axis=1)
    return jnp.stack([forward_BLD, reversed_BLD])


def _product(letters: str, a: Array, b: Array, out: Any = jnp.float32) -> Array:
    """A matrix product, summed in float32, then cast to the dtype `out`."""

    def product(a, b):
        return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32).astype(out)

    def widened(a, b):  # XLA's CPU backend has not all of these products in bfloat16
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    if a.dtype == jnp.float32:
        return product(a, b)
    return jax.lax.platform_dependent(a, b, cpu=widened, default=product)


def _over_positions(a_LIB: Array, b_LQB: Array) -> Array:
    """The product [I, Q], summed over positions and rows."""

    def as_one_axis(a, b):
        a, b = (x.swapaxes(0, 1).reshape(x.shape[1], -1) for x in (a, b))
        return _product("im,qm->iq", a, b)

    # Faster on a CPU. Elsewhere rows lie on several devices: they cannot be part of an
    # axis.
    as_two_axes = functools.partial(_product, "lib,lqb->iq")
    return jax.lax.platform_dependent(
        a_LIB, b_LQB, cpu=as_one_axis, default=as_two_axes
    )


def _clip(x: Array, bound: float) -> Array:
    return jnp.clip(x, -bound, bound) if bound else x


def _inside(x: Array, bound: float) -> Array:
    """True where a clip passes the gradient."""
    return jnp.abs(x) <= (bound or np.inf)
