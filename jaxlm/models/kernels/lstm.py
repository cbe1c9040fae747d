"""A layer of LSTMs over whole rows, several LSTMs (directions) in one call.

The cell of Sak et al. 2014 as ELMo has it (TensorFlow's `LSTMCell` with `num_proj`,
`cell_clip` and `proj_clip`), with σ for the sigmoid and the gates in this order:

    i, j, f, o = [x; h] · kernel + bias
    c' = clip(σ(f + 1) · c + σ(i) · tanh(j))         the 1 is not part of the bias
    h' = clip((σ(o) · tanh(c')) · projection)        the output and the next h

Without a projection h' is what would go into it (torch's LSTM). A row that has ended
keeps its state, and its outputs are 0 (`dynamic_rnn`). The gradient of a clip is 1 up
to the bound and on it, 0 beyond (TensorFlow's of `minimum` and `maximum`, torch's of
`clamp`). The reference is a plain scan of the cell: `tools/bench/recurrence.py`.

What makes it fast:

- x · kernel is one product over all positions, before the loop.
- The gradient is by hand. Autodiff of a scan adds to an array as large as the weights
  at every step; here the loop keeps the gradients of the gates, and one product after
  it gives that of the weights. The forward pass keeps the factors that the gradient
  is multiplied by on its way through a cell, and not the gates, so that a step back
  is a product, two multiplications and a product.
- All arrays have features before positions before rows, so that a step's product is
  weights · [features, rows], three quarters faster than its transpose on a CPU, a gate
  is a block of memory, and what is stacked over positions is a matrix already.
- On an accelerator directions are a batch of each product. On a CPU each direction has
  a loop of its own, and the loops run side by side.

With `dtype` bfloat16 the operands of products, what is kept for the gradient and the
outputs are bfloat16; sums of products, cells, states and all weight gradients are
float32.

Letters beyond `types.py`: G LSTMs side by side (directions), E width of the input, F
cells, I = E + D rows of the kernel, Q = 4 F.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_FORGET = np.array([0, 0, 1, 0], np.float32).reshape(1, 4, 1, 1)
# σ(x) = ½ + ½ tanh(½ x): all four gates are one tanh.
_SCALE = np.array([0.5, 1, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)
_SHIFT = np.array([0.5, 0, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)
_UNROLL = 20  # steps in one turn of an accelerator's loop: ELMo's whole row


class Weights(NamedTuple):
    """Weights of a layer, float32."""

    kernel: Float[Array, "G I 4 F"]  # rows of the input, then of the output before
    bias: Float[Array, "G 4 F"]
    projection: Float[Array, "G F D"] | None  # None: there is none, D = F


class Carry(NamedTuple):
    """What a layer knows of what it has read, float32."""

    cell: Float[Array, "G B F"]
    out: Float[Array, "G B D"]


class _Factors(NamedTuple):
    """What a cell multiplies gradients by on their way back, [G, F, B] each."""

    i: Any  # the cell's gradient, to each gate's sum
    j: Any
    f: Any
    o: Any  # the gradient of what goes to the projection, to this gate's sum
    cell: Any  # the cell's gradient, to the cell before
    opened: Any  # the gradient of what goes to the projection, to the cell


_ENDED = _Factors(0, 0, 0, 0, 1, 0)  # a row that has ended keeps its cell


class _Kept(NamedTuple):
    """What the forward pass keeps for the gradient, at all positions."""

    gates: Float[Array, "G 4 F L B"]  # factors i, j, f, o
    cell: Float[Array, "G F L B"]  # these two as in `_Factors`
    opened: Float[Array, "G F L B"]
    to_project: Float[Array, "G F L B"]
    projected: Float[Array, "G D L B"]  # before the clip


class _Options(NamedTuple):
    cell_clip: float
    proj_clip: float
    dtype: Any
    unroll: int = 1


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
    """Outputs at every position, and the carry at each row's end.

    Args:
        x_GBLE: inputs in the order of reading.
        carry: from before the first position.
        lengths_GB: positions of each row; None: all have L.
        cell_clip: bound of the cells; 0: none.
        proj_clip: bound of the outputs; 0: none.
        dtype: of the products' operands and of the outputs.
    """
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
    options = _Options(cell_clip, proj_clip, jnp.dtype(dtype))

    def in_one_loop(*given):
        unroll = max(1, min(_UNROLL, x_GBLE.shape[2]))
        return _lstm(*given, options._replace(unroll=unroll))

    def in_a_loop_each(*given):
        each = [
            _lstm(*jax.tree.map(lambda leaf, g=g: leaf[g : g + 1], given), options)
            for g in range(directions)
        ]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)

    out_GDLB, cell_GFB, last_GDB = jax.lax.platform_dependent(
        *given, cpu=in_a_loop_each, default=in_one_loop
    )
    out_GBLD = out_GDLB.transpose(0, 3, 2, 1)
    return out_GBLD, Carry(_swap(cell_GFB), _swap(last_GDB))


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _lstm(x, kernel, bias, projection, cell, out, lengths, options):
    return _forward(x, kernel, bias, projection, cell, out, lengths, options)[0]


def _cell(sum_G4FB: Array, cell_GFB: Array, clip: float) -> tuple[Array, Array, Any]:
    """(new cell, what goes to the projection, factors of the gradient) of a step."""
    gate_G4FB = jnp.tanh(sum_G4FB * _SCALE) * _SCALE + _SHIFT
    i, j, f, o = (gate_G4FB[:, k] for k in range(4))
    free_GFB = f * cell_GFB + i * j
    new_GFB = _clip(free_GFB, clip)
    squashed_GFB = jnp.tanh(new_GFB)
    factors = _Factors(
        i=j * i * (1 - i),
        j=i * (1 - j * j),
        f=cell_GFB * f * (1 - f),
        o=squashed_GFB * o * (1 - o),
        cell=f,
        opened=o * (1 - squashed_GFB * squashed_GFB),
    )
    if clip:
        inside_GFB, through = _inside(free_GFB, clip), ("i", "j", "f", "cell")
        factors = factors._replace(
            **{k: jnp.where(inside_GFB, getattr(factors, k), 0) for k in through}
        )
    return new_GFB, o * squashed_GFB, factors


def _forward(
    x_GELB, kernel_GIQ, bias_G4F, projection_GFD, cell_GFB, out_GDB, lengths_GB, options
):
    dtype = options.dtype
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
        cell_GFB, out_GDB, kept = carry
        again = _product("gqd,gdb->gqb", again_GQD, out_GDB.astype(dtype))
        sum_G4FB = _at(kept.gates, t) + again.reshape(*split, rows) + bias_G4F1
        new_cell_GFB, open_GFB, factors = _cell(sum_G4FB, cell_GFB, options.cell_clip)
        projected_GDB = open_GFB
        if down_GDF is not None:
            projected_GDB = _product("gdf,gfb->gdb", down_GDF, open_GFB.astype(dtype))
        new_out_GDB = _clip(projected_GDB, options.proj_clip)
        if lengths_GB is not None:
            reads_G1B = t < lengths_GB[:, None]
            factors = jax.tree.map(
                functools.partial(jnp.where, reads_G1B), factors, _ENDED
            )
            new_cell_GFB = jnp.where(reads_G1B, new_cell_GFB, cell_GFB)
            new_out_GDB = jnp.where(reads_G1B, new_out_GDB, out_GDB)
        gates_G4FLB = kept.gates
        for k, each_GFB in enumerate(factors[:4]):
            gates_G4FLB = _put_gate(gates_G4FLB, each_GFB, k, t)
        more = factors.cell, factors.opened, open_GFB, projected_GDB
        more = (_put(x, at_t, t) for x, at_t in zip(kept[1:], more, strict=True))
        return (new_cell_GFB, new_out_GDB, _Kept(gates_G4FLB, *more)), None

    zeros_GFLB = jnp.zeros((directions, cells, length, rows), dtype)
    projected_GDLB = jnp.zeros((*out_GDB.shape[:2], length, rows), jnp.float32)
    # A position's factors take the place of what the input gave to its gates.
    kept = _Kept(x_G4FLB, zeros_GFLB, zeros_GFLB, zeros_GFLB, projected_GDLB)
    carry, _ = jax.lax.scan(
        step, (cell_GFB, out_GDB, kept), jnp.arange(length), unroll=options.unroll
    )
    last_cell_GFB, last_GDB, kept = carry
    out_GDLB = _clip(kept.projected, options.proj_clip)
    if lengths_GB is not None:
        at_L1 = jnp.arange(length)[:, None]
        reads_G1LB = at_L1[None, None] < lengths_GB[:, None, None]
        out_GDLB = jnp.where(reads_G1LB, out_GDLB, 0)
    inputs = x_GELB, kernel_GIQ, projection_GFD, out_GDB, lengths_GB
    return (out_GDLB.astype(dtype), last_cell_GFB, last_GDB), (inputs, kept)


def _backward(options, saved, cotangents):
    """Letters as above; `d` before a name is the gradient of the loss in it."""
    (x_GELB, kernel_GIQ, projection_GFD, out_GDB, lengths_GB), kept = saved
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
        inside_GDB = _inside(_at(kept.projected, t), options.proj_clip)
        if lengths_GB is not None:
            inside_GDB = inside_GDB & (t < lengths_GB[:, None])
        dprojected_GDB = jnp.where(inside_GDB, dout_GDB + _at(dout_GDLB, t), 0)
        dopen_GFB = dprojected_GDB
        if down_GFD is not None:
            dopen_GFB = _product("gfd,gdb->gfb", down_GFD, dprojected_GDB.astype(dtype))
        dsum_GFB = dcell_GFB + dopen_GFB * _at(kept.opened, t)
        reach_G4FB = jnp.stack([dsum_GFB, dsum_GFB, dsum_GFB, dopen_GFB], axis=1)
        dgate_G4FB = _at(kept.gates, t) * reach_G4FB
        dgate_GQB = dgate_G4FB.reshape(*gates[:2], rows).astype(dtype)
        before_GDB = _product("gdq,gqb->gdb", again_GDQ, dgate_GQB)
        if lengths_GB is not None:
            before_GDB = jnp.where(t < lengths_GB[:, None], before_GDB, dout_GDB)
        return (
            dsum_GFB * _at(kept.cell, t),
            before_GDB,
            _put(dgates_G4FLB, dgate_G4FB, t),
            _put(dprojected_GDLB, dprojected_GDB, t),
        ), None

    carry = (
        dcell_GFB,
        dout_GDB,
        jnp.zeros(kept.gates.shape, dtype),
        jnp.zeros(kept.projected.shape, dtype),
    )
    carry, _ = jax.lax.scan(
        step, carry, jnp.arange(length), unroll=options.unroll, reverse=True
    )
    dcell_GFB, dout_GDB, dgates_G4FLB, dprojected_GDLB = carry
    dgates_GQLB = dgates_G4FLB.reshape(gates)
    outs_GDLB = _clip(kept.projected, options.proj_clip)[:, :, :-1]
    before_GDLB = jnp.concatenate([out_GDB[:, :, None], outs_GDLB], axis=2)
    both_GILB = jnp.concatenate([x_GELB, before_GDLB.astype(dtype)], axis=1)
    ones_G1LB = jnp.ones((directions, 1, length, rows), dtype)
    return (
        _product("geq,gqlb->gelb", into_GEQ, dgates_GQLB, dtype),
        _over_positions(both_GILB, dgates_GQLB),
        _over_positions(ones_G1LB, dgates_GQLB).reshape(directions, 4, -1),
        None if down_GFD is None else _over_positions(kept.to_project, dprojected_GDLB),
        dcell_GFB,
        dout_GDB,
        None,
    )


_lstm.defvjp(_forward, _backward)


def flip_backward(
    x_GBLD: Float[Array, "2 B L D"], lengths_B: Int[Array, "B"] | None
) -> Float[Array, "2 B L D"]:
    """Reverse each row of the second direction, within its length; its own inverse."""
    forward_BLD, backward_BLD = x_GBLD
    if lengths_B is None:
        return jnp.stack([forward_BLD, backward_BLD[:, ::-1]])
    at_1L, end_B1 = jnp.arange(x_GBLD.shape[2])[None], lengths_B[:, None]
    from_BL = jnp.where(at_1L < end_B1, end_B1 - 1 - at_1L, at_1L)
    reversed_BLD = jnp.take_along_axis(backward_BLD, from_BL[..., None], axis=1)
    return jnp.stack([forward_BLD, reversed_BLD])


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


def _clip(x: Array, bound: float) -> Array:
    return jnp.clip(x, -bound, bound) if bound else x


def _inside(x: Array, bound: float) -> Array:
    """True where the gradient passes the clip."""
    return jnp.abs(x) <= (bound or np.inf)


def _at(x: Array, t: Array | int) -> Array:
    """Position `t` of [..., L, B], float32."""
    x = jax.lax.dynamic_index_in_dim(x, t, x.ndim - 2, keepdims=False)
    return x.astype(jnp.float32)


def _put(x: Array, at_t: Array, t: Array | int) -> Array:
    """`x` [..., L, B] with another position `t`."""
    return jax.lax.dynamic_update_index_in_dim(x, at_t.astype(x.dtype), t, x.ndim - 2)


def _put_gate(x_G4FLB: Array, at_t_GFB: Array, k: int, t: Array) -> Array:
    """`x_G4FLB` with another gate `k` at position `t`."""
    block = at_t_GFB[:, None, :, None].astype(x_G4FLB.dtype)
    return jax.lax.dynamic_update_slice(x_G4FLB, block, (0, k, 0, t, 0))
