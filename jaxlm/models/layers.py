"""The layers that models are made of: arrays → arrays.

Parameters are float32 whatever the compute dtype; norms and softmax run in float32.
Dropout is active if its rate is above 0: a module for inference is built with rate 0,
so no flag is passed through the calls.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from jaxlm import mesh
from jaxlm.keys import HASH
from jaxlm.models.kernels.norm import normalise
from jaxlm.models.kernels.rows import ordered_rows
from jaxlm.sharding import state_spec, summed

PRODUCT = "product"  # the products of `Dense`, for policies of `jax.checkpoint`

Dtype = Any
Init = Callable[..., Array]
Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def unrolled() -> bool:
    """Whether the program repeats its code for each layer, and is not a loop."""
    return mesh.platform() == "gpu"


def _in_float32(function: Activation) -> Activation:
    """`function` in float32, cast to the dtype of x."""
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)


# Google's first release computes GELU by erf, its code since 2019-02 by tanh: they
# differ by up to 5e-4, and a converted model keeps its maker's.
ACTIVATIONS: dict[str, Activation] = {
    "gelu_erf": _in_float32(functools.partial(jax.nn.gelu, approximate=False)),
    "gelu_tanh": _in_float32(functools.partial(jax.nn.gelu, approximate=True)),
    "relu": jax.nn.relu,
    "": lambda x: x,
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
    x_ND: Float[Array, "N D"], kernel: Float[Array, "..."], path: str
) -> Float[Array, "N F"]:
    """x · kernel in the dtype of `x`; the kernel's axes are those of D, then of F.

    The gradient of the kernel, a parameter of this `path`, is summed in float32:
    autodiff would round each device's part of it before the parts are added up.
    """
    return x_ND @ kernel.astype(x_ND.dtype).reshape(x_ND.shape[1], -1)


def _product_backward(path: str, saved: Any, dy_NF: Array) -> tuple[Array, Array]:
    x_ND, kernel = saved

    def gradient(x_ND: Array, dy_NF: Array) -> Array:
        dkernel_DF = jnp.einsum(
            "nd,nf->df", x_ND, dy_NF, preferred_element_type=kernel.dtype
        )
        return dkernel_DF.reshape(kernel.shape)

    dx_ND = dy_NF @ kernel.astype(dy_NF.dtype).reshape(x_ND.shape[1], -1).T
    return dx_ND, summed(gradient, state_spec(path, kernel), x_ND, dy_NF)


product.defvjp(
    lambda x, kernel, path: (product(x, kernel, path), (x, kernel)), _product_backward
)


class Dense(nn.Module):
    """activation(x · kernel + bias), where the kernel contracts the last axes of `x`.

    The product is one of two matrices, whatever the axes: XLA would else transpose.
    Autodiff stores only the product, from which it computes the activation again.
    """

    features: tuple[int, ...]  # the axes of the output
    dtype: Dtype
    kernel_init: Init
    inputs: int = 1  # how many axes of `x` are contracted
    activation: str = ""
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The output, in `dtype`."""
        rows, shape = (
            x.shape[: -self.inputs],
            (*x.shape[-self.inputs :], *self.features),
        )
        matrix = math.prod(x.shape[-self.inputs :]), math.prod(self.features)

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return self.kernel_init(key, matrix).reshape(shape)

        kernel = self.param("kernel", init, shape)
        path = "/".join((*self.path, "kernel"))
        y = product(x.astype(self.dtype).reshape(-1, matrix[0]), kernel, path)
        y = checkpoint_name(y, PRODUCT).reshape(*rows, *self.features)
        if not self.use_bias:
            return ACTIVATIONS[self.activation](y)
        bias = self.param("bias", nn.initializers.zeros, self.features)
        bias = jnp.expand_dims(bias.astype(self.dtype), tuple(range(len(rows))))

        def end(y: Array, bias: Array) -> Array:
            return ACTIVATIONS[self.activation](y + bias)

        if self.activation:
            end = jax.checkpoint(end, prevent_cse=unrolled())
        return end(y, bias)


class LayerNorm(nn.Module):
    """A norm over the last axis in float32, with its output in `dtype`.

    `eps` has no default (BERT 1e-12, GPT 1e-5, Flax 1e-6).
    """

    eps: float
    dtype: Dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """The normalised `x`."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = jnp.zeros(x.shape[-1:])
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return normalise(x, scale, bias, self.eps, self.dtype)


class Dropout(nn.Module):
    """Zero each element with probability `rate`; off at rate 0, where no key is needed.

    The module's path names the random bits.
    """

    rate: float

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`x` with dropped elements 0 and the others scaled up."""
        return self.drawn()(x) if self.rate else x

    def drawn(self) -> Callable[[Array], Array]:
        """The function with its key drawn: a branch of `lax.cond` cannot draw one."""
        key = self.make_rng("dropout")

        def drop(x: Array) -> Array:
            keep = keep_mask(key, x.shape, self.rate)
            return jnp.where(keep, x * (1 / kept(self.rate)), 0)

        return drop


def keep_mask(
    key: Key[Array, ""], shape: tuple[int, ...], rate: float
) -> Bool[Array, "..."]:
    """True with probability `kept(rate)`, independently for each element of `shape`.

    16 bits decide an element; of threefry's words of 32 bits, each decides two. Bits
    depend on the key and on the position in `shape` only, not on how the array is
    sharded; leading axes stay shardable.
    """
    most = round(kept(rate) * 2**16) - 1
    if jax.random.key_impl(key) == HASH:
        return jax.random.bits(key, shape, jnp.uint16) <= most
    *rows, width = shape
    words = jax.random.bits(key, (*rows, -(-width // 2)), jnp.uint32)
    lanes = jax.lax.bitcast_convert_type(words, jnp.uint16)
    lanes = lanes.reshape(*rows, -1)[..., :width]
    return lanes <= most


def kept(rate: float) -> float:
    """The share that `keep_mask` keeps: 1 - rate, rounded to 16 bits."""
    return max(1, round((1 - rate) * 2**16)) / 2**16


class Table(nn.Module):
    """An embedding table: a row of width D for each id."""

    rows: int
    width: int
    kernel_init: Init

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        """The whole table, float32."""
        return self.param("table", self.kernel_init, (self.rows, self.width))


def zero_padded(init: Init, rows: int) -> Init:
    """An initialiser: `rows` rows as by `init`, zeros in further ones."""

    def padded(key: Array, shape: tuple[int, int]) -> Array:
        table = init(key, (rows, shape[1]))
        return jnp.pad(table, ((0, shape[0] - rows), (0, 0)))

    return padded


def uniform(bound: float) -> Init:
    """An initialiser: uniform between -bound and bound."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def same_segment(segments_BL: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """True where two positions are in the same segment."""
    return segments_BL[:, :, None] == segments_BL[:, None, :]


def position_ids(segments_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """The position of each token in its segment: [1 1 1 2 2 0] → [0 1 2 0 1 0]."""
    at_L = jnp.arange(segments_BL.shape[1])
    starts_BL = segments_BL != jnp.pad(segments_BL, ((0, 0), (1, 0)))[:, :-1]
    start_BL = jax.lax.cummax(jnp.where(starts_BL, at_L[None], 0), axis=1)
    return at_L[None] - start_BL


def lookup(
    table: Float[Array, "*parts R D"], ids: Int[Array, "B *n"]
) -> Float[Array, "B *n D"]:
    """Rows of a table, or of the copies of a table that `mesh.for_rows` makes."""

    def take(table: Array, ids: Array) -> Array:
        if mesh.platform() == "gpu":
            return ordered_rows(table, ids, len(table))
        return table[ids]

    if table.ndim == 2:
        return take(table, ids)
    cut = ids.reshape(len(table), -1, *ids.shape[1:])
    rows = jax.vmap(take)(table, cut)
    return mesh.by_rows(rows.reshape(*ids.shape, -1))


def few_rows(
    table_RD: Float[Array, "R D"], ids_BL: Int[Array, "B L"]
) -> Float[Array, "B L D"]:
    """`lookup` in a table of few rows, with neither a gather nor a scatter."""
    each = (
        jnp.where((ids_BL == i)[..., None], row_D[None, None], 0)
        for i, row_D in enumerate(table_RD)
    )
    return functools.reduce(jnp.add, each)


def position_rows(
    table_LD: Float[Array, "M D"],
    length: Any,  # an int, or a symbol of jax.export
    ids: Int[Array, "#B L"] | None,
) -> Float[Array, "#B L D"]:
    """Rows of a position table at `ids`; None: at 0 … length - 1."""
    if ids is not None:
        return lookup(mesh.for_rows(table_LD, ids.shape[0]), ids)
    if length > len(table_LD):
        raise ValueError(
            f"rows of {length} tokens do not fit model.max_length = {len(table_LD)}"
        )
    return table_LD[None, :length]


class Rope(NamedTuple):
    """Cosines and sines of the angles that rope turns queries and keys by."""

    cos: Float[Array, "#B L C"]
    sin: Float[Array, "#B L C"]


def rope(ids: Int[Array, "#B L"], width: int, base: float) -> Rope:
    """Rotary position embedding (Su et al. 2021) of heads of `width`: at position p,
    the pair of channels c turns by the angle p / base^(2c / width)."""
    # Rounded where torch rounds: at position 8,192 the last digit shows.
    power_C = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    wave_C = (float(base) ** power_C.astype(np.float64)).astype(np.float32)
    speed_C = 1 / wave_C
    angle = ids[..., None].astype(jnp.float32) * speed_C[None, None]
    return Rope(jnp.cos(angle), jnp.sin(angle))


def rotated(x_BLHK: Float[Array, "B L H K"], by: Rope) -> Float[Array, "B L H K"]:
    """Queries or keys, turned in float32; channels c and c + K/2 are a pair."""
    a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BLHK.dtype)


def row_major(x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """`x_BLD`, on a GPU kept in this order of axes in memory, and its gradient, too.

    The gradient of a position table is a sum over B. XLA would have B innermost for it,
    in all layers: their norms and products would then transpose.
    """
    if mesh.platform() != "gpu":
        return x_BLD
    rows = jax.lax.optimization_barrier(x_BLD.reshape(-1, x_BLD.shape[-1]))
    return rows.reshape(x_BLD.shape)


def gather(
    x_BLD: Float[Array, "B L D"], positions_BP: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
    """The rows of `x_BLD` at `positions_BP`."""
    if mesh.platform() == "gpu":  # a scatter would sort its numbers; see `ordered_rows`
        length = x_BLD.shape[1]
        picks_BPL = jax.nn.one_hot(positions_BP, length, dtype=x_BLD.dtype)
        return jnp.matmul(picks_BPL, x_BLD, precision="highest")
    return jnp.take_along_axis(x_BLD, positions_BP[..., None], axis=1)
