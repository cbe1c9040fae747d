"""Inputs of a layer of LSTMs → outputs and last states, several LSTMs in one loop.

The cell of Sak et al. 2014 as ELMo has it (TensorFlow's `LSTMCell` with `num_proj`,
`cell_clip` and `proj_clip`), with σ for the sigmoid and the gates in this order:

    i, j, f, o = [x; h] · kernel + bias
    c' = clip(σ(f + 1) · c + σ(i) · tanh(j))         the 1 is not part of the bias
    h' = clip((σ(o) · tanh(c')) · projection)        the output and the next h

Without a projection h' is what would go into it (torch's LSTM). A row that has ended
keeps its state, and its outputs are 0 (`dynamic_rnn`).

What makes it fast:

- x · kernel is one product over all positions, before the loop.
- The gradient is by hand. Autodiff of a scan adds to an array as large as the weights
  at every step; here the loop keeps the gradients of the gates, and one product after
  it gives that of the weights. The forward pass keeps what the gradient is multiplied
  by on its way through a cell, and not the gates, so that the way back is a product,
  two multiplications and a product.
- All arrays have features before positions before rows, so that a step's product is
  weights · [features, rows], three quarters faster than its transpose on a CPU, a gate
  is a block of memory, and what is stacked over positions is a matrix already.
- Directions are a leading axis: one product of a batch of two on an accelerator. On a
  CPU each has a loop of its own, and the loops run side by side.

The gradient of a clip is the original's: 1 up to the bound and on it, 0 beyond
(TensorFlow's of `minimum` and `maximum`, torch's of `clamp`), so a cell that is clipped
passes nothing back at that step.

With `dtype` bfloat16 the operands of products, what is kept for the gradient and the
outputs are bfloat16; sums of products, cells, states and all weight gradients
are float32.

Letters beyond `types.py`: G LSTMs side by side (directions), E width of the input, F
cells, I = E + D rows of the kernel, Q = 4 F.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_FORGET = np.array([0, 0, 1, 0], np.float32).reshape(1, 4, 1, 1)
# σ(x) = ½ + ½ tanh(½ x): all four gates are one tanh.
_SCALE = np.array([0.5, 1, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)
_OUT = np.array([0, 0, 0, 1], np.float32).reshape(1, 4, 1, 1)
_SHIFT = np.array([0.5, 0, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)


class Weights(NamedTuple):
    """Of a layer."""

    kernel: Float[Array, "G I 4 F"]  # rows of the input, then of the output before
    bias: Float[Array, "G 4 F"]
    projection: Float[Array, "G F D"] | None  # None: there is none, D = F


class Carry(NamedTuple):
    """What a layer knows of what it has read, float32."""

    cell: Float[Array, "G B F"]
    out: Float[Array, "G B D"]


class Through(NamedTuple):
    """What the forward pass keeps of its cells, besides the slopes of the gates."""

    cell: Float[Array, "G F L B"]  # gradient of a cell in the cell before
    out: Float[Array, "G F L B"]  # of what goes to the projection in the cell
    opened: Float[Array, "G F L B"]  # what goes to the projection


class _Options(NamedTuple):
    cell_clip: float
    proj_clip: float
    dtype: Any
    unroll: int


def lstm(
    x_GBLE: Float[Array, "G B L E"],
    weights: Weights,
    carry: Carry,
    lengths_GB: Int[Array, "G B"] | None = None,
    *,
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
    dtype: Any = jnp.float32,
    unroll: int | None = None,
) -> tuple[Float[Array, "G B L D"], Carry]:
    """Outputs at every position, and the carry at each row's end.

    Args:
        x_GBLE: inputs in the order of reading.
        weights: float32.
        carry: from before the first position.
        lengths_GB: positions of each row; None: L of all.
        cell_clip: bound of the cells; 0: none.
        proj_clip: bound of the outputs; 0: none.
        dtype: of the products' operands and of the outputs.
        unroll: steps in one turn of the loop; None: 1 on a CPU, where a longer body
            runs slower, else 20, ELMo's whole row.
    """
    on_cpu = jax.default_backend() == "cpu"
    if unroll is None:
        unroll = 1 if on_cpu else 20
    unroll = max(1, min(unroll, x_GBLE.shape[2]))
    options = _Options(cell_clip, proj_clip, jnp.dtype(dtype), unroll)
    directions, inputs, _, cells = weights.kernel.shape
    given = (
        x_GBLE.transpose(0, 3, 2, 1).astype(dtype),
        weights.kernel.reshape(directions, inputs, 4 * cells),
        weights.bias,
        weights.projection,
        _swap(carry.cell.astype(jnp.float32)),
        _swap(carry.out.astype(jnp.float32)),
        lengths_GB,
    )
    if on_cpu:
        each = [
            _lstm(*jax.tree.map(lambda leaf, g=g: leaf[g : g + 1], given), options)
            for g in range(directions)
        ]
        found = jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)
    else:
        found = _lstm(*given, options)
    out_GDLB, cell_GFB, last_GDB = found
    out_GBLD = out_GDLB.transpose(0, 3, 2, 1)
    return out_GBLD, Carry(_swap(cell_GFB), _swap(last_GDB))


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _lstm(x, kernel, bias, projection, cell, out, lengths, options):
    return _forward(x, kernel, bias, projection, cell, out, lengths, options)[0]


def _forward(
    x_GELB, kernel_GIQ, bias_G4F, projection_GFD, cell_GFB, out_GDB, lengths_GB, options
):
    dtype, clip = options.dtype, options.cell_clip
    directions, width, length, rows = x_GELB.shape
    cells = cell_GFB.shape[1]
    # The barrier keeps XLA from doing the transposes again at each step.
    again_GQD, down_GDF = jax.lax.optimization_barrier(
        jax.tree.map(
            lambda x: _swap(x).astype(dtype), (kernel_GIQ[:, width:], projection_GFD)
        )
    )
    split = (directions, 4, cells)
    into_GEQ = kernel_GIQ[:, :width].astype(dtype)
    x_G4FLB = _product("geq,gelb->gqlb", into_GEQ, x_GELB, dtype)
    x_G4FLB = x_G4FLB.reshape(*split, length, rows)
    bias_G4F1 = bias_G4F[..., None] + _FORGET

    def step(carry, t):
        cell_GFB, out_GDB, slopes_G4FLB, kept, projected_GDLB = carry
        again = _product("gqd,gdb->gqb", again_GQD, out_GDB.astype(dtype))
        sum_G4FB = _at(slopes_G4FLB, t) + again.reshape(*split, rows) + bias_G4F1
        gate_G4FB = jnp.tanh(sum_G4FB * _SCALE) * _SCALE + _SHIFT
        i, j, f, o = (gate_G4FB[:, k] for k in range(4))
        free_GFB = f * cell_GFB + i * j
        new_cell_GFB = _clip(free_GFB, clip)
        squashed_GFB = jnp.tanh(new_cell_GFB)
        open_GFB = o * squashed_GFB
        projected_GDB = open_GFB
        if down_GDF is not None:
            projected_GDB = _product("gdf,gfb->gdb", down_GDF, open_GFB.astype(dtype))
        new_out_GDB = _clip(projected_GDB, options.proj_clip)
        # What the gradient is multiplied by on its way through the cell.
        slopes = (
            j * i * (1 - i),
            i * (1 - j * j),
            cell_GFB * f * (1 - f),
            squashed_GFB * o * (1 - o),
        )
        through = Through(f, o * (1 - squashed_GFB * squashed_GFB), open_GFB)
        if clip:
            inside_GFB = jnp.abs(free_GFB) <= clip
            *of_cell, of_out = slopes
            slopes = (*(jnp.where(inside_GFB, x, 0) for x in of_cell), of_out)
            through = through._replace(cell=jnp.where(inside_GFB, f, 0))
        if lengths_GB is not None:
            reads_G1B = t < lengths_GB[:, None]
            slopes = tuple(jnp.where(reads_G1B, x, 0) for x in slopes)
            through = Through(
                jnp.where(reads_G1B, through.cell, 1),
                jnp.where(reads_G1B, through.out, 0),
                open_GFB,
            )
            new_cell_GFB = jnp.where(reads_G1B, new_cell_GFB, cell_GFB)
            new_out_GDB = jnp.where(reads_G1B, new_out_GDB, out_GDB)
        for k, each_GFB in enumerate(slopes):
            slopes_G4FLB = _put_gate(slopes_G4FLB, each_GFB, k, t)
        return (
            new_cell_GFB,
            new_out_GDB,
            slopes_G4FLB,
            jax.tree.map(lambda x, at_t: _put(x, at_t, t), kept, through),
            _put(projected_GDLB, projected_GDB, t),
        ), None

    # A position's slopes take the place of what the input gave to its gates.
    cells_GFLB = jnp.zeros((directions, cells, length, rows), dtype)
    carry = (
        cell_GFB,
        out_GDB,
        x_G4FLB,
        Through(cells_GFLB, cells_GFLB, cells_GFLB),
        jnp.zeros((*out_GDB.shape[:2], length, rows), jnp.float32),
    )
    carry, _ = jax.lax.scan(step, carry, jnp.arange(length), unroll=options.unroll)
    last_cell_GFB, last_GDB, slopes_G4FLB, kept, projected_GDLB = carry
    out_GDLB = _clip(projected_GDLB, options.proj_clip)
    if lengths_GB is not None:
        reads_G1LB = _reads(lengths_GB, length)
        out_GDLB = jnp.where(reads_G1LB, out_GDLB, 0)
    saved = (
        (x_GELB, kernel_GIQ, projection_GFD, out_GDB, lengths_GB),
        (slopes_G4FLB, kept, projected_GDLB),
    )
    return (out_GDLB.astype(dtype), last_cell_GFB, last_GDB), saved


def _backward(options, saved, cotangents):
    """Letters as above; `d` before a name is the gradient of the loss in it."""
    inputs, (slopes_G4FLB, kept, projected_GDLB) = saved
    x_GELB, kernel_GIQ, projection_GFD, out_GDB, lengths_GB = inputs
    dout_GDLB, dcell_GFB, dout_GDB = cotangents
    dtype = options.dtype
    directions, width, length, rows = x_GELB.shape
    gates = (directions, kernel_GIQ.shape[2], length, rows)
    # In bfloat16 these are casts, which XLA would do again at each step.
    into_GEQ, again_GDQ, down_GFD = jax.lax.optimization_barrier(
        jax.tree.map(
            lambda x: x.astype(dtype),
            (kernel_GIQ[:, :width], kernel_GIQ[:, width:], projection_GFD),
        )
    )

    def step(carry, t):
        dcell_GFB, dout_GDB, dgates_G4FLB, dprojected_GDLB = carry
        inside_GDB = _inside(_at(projected_GDLB, t), options.proj_clip)
        if lengths_GB is not None:
            inside_GDB = inside_GDB & (t < lengths_GB[:, None])
        dprojected_GDB = jnp.where(inside_GDB, dout_GDB + _at(dout_GDLB, t), 0)
        dopen_GFB = dprojected_GDB
        if down_GFD is not None:
            dopen_GFB = _product("gfd,gdb->gfb", down_GFD, dprojected_GDB.astype(dtype))
        dsum_GFB = dcell_GFB + dopen_GFB * _at(kept.out, t)
        dgate_G4FB = _at(slopes_G4FLB, t) * jnp.where(
            _OUT > 0, dopen_GFB[:, None], dsum_GFB[:, None]
        )
        dgate_GQB = dgate_G4FB.reshape(*gates[:2], rows).astype(dtype)
        before_GDB = _product("gdq,gqb->gdb", again_GDQ, dgate_GQB)
        if lengths_GB is not None:
            reads_G1B = t < lengths_GB[:, None]
            before_GDB = jnp.where(reads_G1B, before_GDB, dout_GDB)
        return (
            dsum_GFB * _at(kept.cell, t),
            before_GDB,
            _put(dgates_G4FLB, dgate_G4FB, t),
            _put(dprojected_GDLB, dprojected_GDB, t),
        ), None

    carry = (
        dcell_GFB,
        dout_GDB,
        jnp.zeros(slopes_G4FLB.shape, dtype),
        jnp.zeros(projected_GDLB.shape, dtype),
    )
    carry, _ = jax.lax.scan(
        step, carry, jnp.arange(length), unroll=options.unroll, reverse=True
    )
    dcell_GFB, dout_GDB, dgates_G4FLB, dprojected_GDLB = carry
    dgates_GQLB = dgates_G4FLB.reshape(gates)
    outs_GDLB = _clip(projected_GDLB, options.proj_clip)[:, :, :-1]
    before_GDLB = jnp.concatenate([out_GDB[:, :, None], outs_GDLB], axis=2)
    both_GILB = jnp.concatenate([x_GELB, before_GDLB.astype(dtype)], axis=1)
    ones_G1LB = jnp.ones((directions, 1, length, rows), dtype)
    return (
        _product("geq,gqlb->gelb", into_GEQ, dgates_GQLB, dtype),
        _over_positions(both_GILB, dgates_GQLB),
        _over_positions(ones_G1LB, dgates_GQLB).reshape(directions, 4, -1),
        None if down_GFD is None else _over_positions(kept.opened, dprojected_GDLB),
        dcell_GFB,
        dout_GDB,
        None,
    )


_lstm.defvjp(_forward, _backward)


def flip_backward(
    x_GBLD: Float[Array, "2 B L D"], lengths_B: Int[Array, "B"] | None
) -> Float[Array, "2 B L D"]:
    """With the second of the two turned round, each row within its own length.

    Twice is nothing; what lies behind a row's end stays there.
    """
    forward_BLD, back_BLD = x_GBLD
    if lengths_B is None:
        return jnp.stack([forward_BLD, back_BLD[:, ::-1]])
    at_BL = jnp.arange(x_GBLD.shape[2])[None]
    end_B1 = lengths_B[:, None]
    at_BL = jnp.where(at_BL < end_B1, end_B1 - 1 - at_BL, at_BL)
    turned_BLD = jnp.take_along_axis(back_BLD, at_BL[..., None], axis=1)
    return jnp.stack([forward_BLD, turned_BLD])


def _product(letters: str, a: Array, b: Array, out: Any = jnp.float32) -> Array:
    """A matrix product that sums in float32, given in the dtype `out`."""

    def product(a, b):
        return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)

    def widened(a, b):
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    if a.dtype == jnp.float32:
        return product(a, b).astype(out)
    # XLA's CPU backend has not all of these products in bfloat16.
    y = jax.lax.platform_dependent(a, b, cpu=widened, default=product)
    return y.astype(out)


def _over_positions(a_GILB: Array, b_GQLB: Array) -> Array:
    """[G, I, Q], the product that sums over positions and rows."""

    def as_two_axes(a, b):
        return _product("gilb,gqlb->giq", a, b)

    def as_one_axis(a, b):
        a, b = (x.reshape(*x.shape[:2], -1) for x in (a, b))
        return _product("gim,gqm->giq", a, b)

    # XLA's CPU backend copies both arrays to sum over two axes. Elsewhere it does not,
    # and rows that lie on several devices could not be part of one axis.
    return jax.lax.platform_dependent(
        a_GILB, b_GQLB, cpu=as_one_axis, default=as_two_axes
    )


def _swap(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _reads(lengths_GB: Array, length: int) -> Array:
    """[G, 1, L, B], True where a row has a position."""
    return jnp.arange(length)[None, None, :, None] < lengths_GB[:, None, None]


def _clip(x: Array, bound: float) -> Array:
    return jnp.clip(x, -bound, bound) if bound else x


def _inside(x: Array, bound: float) -> Array:
    """True where the gradient passes the clip."""
    return jnp.abs(x) <= (bound or np.inf)


def _at(x: Array, t: Array | int, dtype: Any = jnp.float32) -> Array:
    """Position `t` of [..., L, B]."""
    return jax.lax.dynamic_index_in_dim(x, t, x.ndim - 2, keepdims=False).astype(dtype)


def _put(x: Array, at_t: Array, t: Array | int) -> Array:
    """`x` [..., L, B] with another position `t`."""
    return jax.lax.dynamic_update_index_in_dim(x, at_t.astype(x.dtype), t, x.ndim - 2)


def _gate(x_G4FLB: Array, k: int, t: Array) -> Array:
    """Gate `k` at position `t`, float32."""
    groups, _, cells, _, rows = x_G4FLB.shape
    block = jax.lax.dynamic_slice(x_G4FLB, (0, k, 0, t, 0), (groups, 1, cells, 1, rows))
    return block[:, 0, :, 0].astype(jnp.float32)


def _put_gate(x_G4FLB: Array, at_t_GFB: Array, k: int, t: Array) -> Array:
    block = at_t_GFB[:, None, :, None].astype(x_G4FLB.dtype)
    return jax.lax.dynamic_update_slice(x_G4FLB, block, (0, k, 0, t, 0))
