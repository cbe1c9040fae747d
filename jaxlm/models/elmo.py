"""Characters of words → hidden states and next-word logits in both directions: ELMo.

Peters et al. 2018 as in allenai/bilm-tf (bilm/training.py to train, bilm/model.py to
use). Characters are those of `text/characters.py`.

    characters ── CNN ── max ── highways ── projection ─┬─ LSTM ── LSTM + ─── softmax
                                                        └─ LSTM ── LSTM + ──── (same)

The directions share only characters and softmax. They are a leading axis of size 2
(forward, backward), each in its own order of reading.

    out = Elmo(config).apply({"params": params}, characters, state, lengths=lengths)
                            one text in both directions: features
    out = Elmo(config).apply({"params": params}, characters, state, lengths=lengths,
                             method="read")
                            two texts, each in its own order: training

The LSTM state is an argument and a result. Dropout is where the original has it: on the
input of each layer, before its skip connection branches off, and on the input of the
softmax.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from jaxlm import mesh
from jaxlm.config.model import ElmoConfig
from jaxlm.models.encoder import Encoded, Remat
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.kernels.lstm import Carry, Weights, flip_backward, lstm
from jaxlm.models.layers import Dropout, Dtype, Init, Table, uniform
from jaxlm.tree import padded_rows

CHARACTERS = 261  # rows of the table: the bytes and five marks; id 0, no word, has none


# Mesh axes of one layer's kernel, bias and projection while they are multiplied.
_CUT = (None, None, None, "tensor"), (None, None, "tensor"), (None, "tensor")


class State(NamedTuple):
    """The LSTM state of both directions at the end of each row, float32."""

    cell: Float[Array, "B N 2 F"]
    out: Float[Array, "B N 2 D"]


class Head(NamedTuple):
    """The softmax that both directions share; rows past the vocabulary are padding."""

    table: Float[Array, "R D"]
    bias: Float[Array, "R"]


class Read(NamedTuple):
    """What `Elmo.read` returns; the axis of size 2 is (forward, backward)."""

    hidden: Float[Array, "N+1 2 B L D"]  # the words' vectors, then every layer
    state: State
    last: Float[Array, "2 B L D"]  # of the top layer, as the softmax multiplies it
    head: Head | None


def head_rows(config: ElmoConfig) -> int:
    """Rows of the softmax table: the vocabulary, padded to a multiple of 128."""
    return padded_rows(config.vocab_size)


def zero_state(config: ElmoConfig, batch: int) -> State:
    """The state of `batch` rows before their first word: zeros."""
    shape = batch, config.num_layers, 2
    return State(jnp.zeros((*shape, config.d_ff)), jnp.zeros((*shape, config.d_model)))


class Highway(nn.Module):
    """carry · relu(transform) + (1 - carry) · x. Initially the output is nearly x."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> tuple[Float[Array, "*n D"], None]:
        """(the output, None), as `nn.scan` wants it."""
        width = x.shape[-1]
        init = nn.initializers.normal(1 / math.sqrt(width))
        dense = functools.partial(nn.Dense, width, dtype=self.dtype, kernel_init=init)
        # The original's name: its carry gate multiplies what is new, not what is kept.
        carry = dense(bias_init=nn.initializers.constant(-2.0), name="carry")
        gate = jax.nn.sigmoid(carry(x))
        return gate * jax.nn.relu(dense(name="transform")(x)) + (1 - gate) * x, None


@jax.custom_vjp
def largest_windows(
    x_CnE: Float[Array, "C *n E"], kernel_WEO: Float[Array, "W E O"]
) -> Float[Array, "*n O"]:
    """A convolution over the characters of words, and its maximum over each word.

    The gradient is written by hand: the forward pass keeps which window was largest
    (the first of several) instead of the outputs of all windows.
    """
    return _largest_forward(x_CnE, kernel_WEO)[0]


def _windows(x_CnE: Array, width: int) -> Array:
    count = len(x_CnE) - width + 1
    return jnp.concatenate([x_CnE[k : k + count] for k in range(width)], axis=-1)


def _largest_forward(x_CnE, kernel_WEO):
    width, _, number = kernel_WEO.shape
    y_CnO = _windows(x_CnE, width) @ kernel_WEO.reshape(-1, number)
    most_nO = y_CnO.max(0)
    at_nO = jax.lax.argmax(y_CnO, 0, jnp.int32).astype(jnp.int16)
    return most_nO, (x_CnE, kernel_WEO, at_nO)


def _largest_backward(saved, dmost_nO):
    x_CnE, kernel_WEO, at_nO = saved
    width, _, number = kernel_WEO.shape
    windows_CnI = _windows(x_CnE, width)
    at_CnO = jax.lax.broadcasted_iota(jnp.int16, (len(windows_CnI), *at_nO.shape), 0)
    dy_CnO = jnp.where(at_CnO == at_nO[None], dmost_nO[None], 0)
    axes = tuple(range(dy_CnO.ndim - 1))
    dkernel_IO = jnp.tensordot(windows_CnI, dy_CnO, (axes, axes))
    dwindows_CnI = dy_CnO @ kernel_WEO.reshape(-1, number).T
    _, fold = jax.vjp(lambda x: _windows(x, width), x_CnE)
    return fold(dwindows_CnI)[0], dkernel_IO.reshape(kernel_WEO.shape)


largest_windows.defvjp(_largest_forward, _largest_backward)


class Filters(nn.Module):
    """A convolution over `width` characters, then the maximum over the word."""

    width: int
    number: int
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "C *n E"]) -> Float[Array, "*n O"]:
        """The maxima; the caller applies the activation, which is monotonic."""
        shape = self.width, x.shape[-1], self.number
        # Whole, and so its gradient: for a part of that, devices would need all rows.
        kernel_WEO = mesh.whole(self.param("kernel", self.kernel_init, shape))
        bias_O = self.param("bias", nn.initializers.zeros, shape[-1:])
        bias = bias_O.astype(self.dtype).reshape((1,) * (x.ndim - 2) + (-1,))
        return largest_windows(x, kernel_WEO.astype(self.dtype)) + bias


class CharCnn(nn.Module):
    """The characters of each word → its vector: Kim et al. 2016."""

    config: ElmoConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, characters: Integer[Array, "*n C"]) -> Float[Array, "*n D"]:
        """The vector of each word; that of padding is meaningless."""
        config = self.config
        if characters.shape[-1] != config.max_characters:
            raise ValueError(
                f"{characters.shape[-1]} characters a word, model.max_characters = "
                f"{config.max_characters}"
            )
        table = Table(CHARACTERS, config.d_character, uniform(1.0), name="embed")()
        table = jnp.pad(table, ((1, 0), (0, 0))).astype(self.dtype)

        def by_product(ids, table):  # its gradient is no scatter of single characters
            return jax.nn.one_hot(ids, len(table), dtype=table.dtype) @ table

        # Windows are slices of whole arrays if characters come before words.
        x = jax.lax.platform_dependent(
            jnp.moveaxis(characters, -1, 0),
            table,
            cpu=lambda ids, table: table[ids],
            default=by_product,
        )
        pooled = []
        for width, number in enumerate(config.filters, start=1):
            if number == 0:
                continue
            init = uniform(0.05)
            if config.activation == "tanh":  # Kim et al. 2016; the original's choice
                fan_in = width * config.d_character
                init = nn.initializers.normal(1 / math.sqrt(fan_in))
            name = f"filters_{width}"
            pooled.append(Filters(width, number, init, self.dtype, name=name)(x))
        activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[config.activation]
        x = activation(jnp.concatenate(pooled, axis=-1))
        if config.num_highways:
            highways = nn.scan(
                Highway,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=config.num_highways,
            )
            x, _ = highways(self.dtype, name="highways")(x)
        if x.shape[-1] != config.d_model:
            init = nn.initializers.normal(1 / math.sqrt(x.shape[-1]))
            width, dtype = config.d_model, self.dtype
            x = nn.Dense(width, dtype=dtype, kernel_init=init, name="projection")(x)
        return x


class Layers(nn.Module):
    """The LSTM weights of all layers and directions."""

    config: ElmoConfig

    @nn.compact
    def __call__(self) -> Weights:
        """The weights, float32, with leading axes [N, 2]."""
        config = self.config
        lead, d, f = (config.num_layers, 2), config.d_model, config.d_ff
        # Glorot's, TensorFlow's default, for each matrix by itself.
        kernel = uniform(math.sqrt(6 / (2 * d + 4 * f)))
        projection = uniform(math.sqrt(6 / (f + d)))
        return Weights(
            self.param("kernel", kernel, (*lead, 2 * d, 4, f)),
            self.param("bias", nn.initializers.zeros, (*lead, 4, f)),
            self.param("projection", projection, (*lead, f, d)),
        )


class Softmax(nn.Module):
    """The weights of the softmax."""

    config: ElmoConfig

    @nn.compact
    def __call__(self) -> Head:
        """The table and the bias, float32."""
        rows, width = head_rows(self.config), self.config.d_model

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            table = jax.random.normal(key, shape) / math.sqrt(width)
            return table.at[self.config.vocab_size :].set(0)

        return Head(
            self.param("table", init, (rows, width)),
            self.param("bias", nn.initializers.zeros, (rows,)),
        )


class Elmo(nn.Module):
    """ELMo's bidirectional language model."""

    config: ElmoConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"  # "dots", "full": the backward pass repeats each layer
    road: str = "auto"  # for all families; an ELMo has no attention

    def example(self) -> tuple[Any, ...]:
        """Inputs to initialise with."""
        return (jnp.zeros((1, 2, self.config.max_characters), jnp.int32),)

    def __call__(
        self,
        characters_BLC: Integer[Array, "B L C"],
        state: State | None = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        logits: bool = True,
        deterministic: bool = True,
    ) -> Encoded:
        """Read each row forwards, and backwards from its own end; see `read`.

        Hidden states are [N+1, B, L, 2 D]; layer 0 has each word's vector twice, and
        padding is 0. The logits "lm" [2, B, L, V] are those of the next and of the
        previous word. There are none if `logits` is False or the vocabulary is empty.
        """
        read = self.read(
            characters_BLC,
            state,
            lengths=lengths,
            softmax=logits,
            deterministic=deterministic,
        )
        both = functools.partial(flip_backward, lengths_B=lengths)
        hidden = jax.vmap(both)(read.hidden)
        hidden = jnp.concatenate([hidden[:, 0], hidden[:, 1]], axis=-1)
        heads = {}
        if read.head is not None:
            table_VD, bias_V = (x[: self.config.vocab_size] for x in read.head)
            scores = tied_logits(both(read.last), table_VD)
            heads["lm"] = scores + bias_V[None, None, None]
        return Encoded(hidden, heads=heads, carry=read.state)

    @nn.compact
    def read(
        self,
        characters: Integer[Array, "*both B L C"],
        state: State | None = None,
        *,
        lengths: Int[Array, "*both B"] | None = None,
        softmax: bool = True,
        deterministic: bool = True,
    ) -> Read:
        """Read [B, L, C] in both directions, or [2, B, L, C] with the second reversed.

        Args:
            state: that of the previous batch; None: zeros. If it has more than B rows,
                the others stay unchanged.
            lengths: number of words in each row; None: L.
            softmax: False does not return the softmax weights.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        config = self.config
        x = CharCnn(config, self.dtype, name="words")(characters)
        if characters.ndim == 3:
            x = flip_backward(jnp.stack([x, x]), lengths)
            lengths = None if lengths is None else jnp.stack([lengths, lengths])
        by_rows = jax.vmap(mesh.by_rows)
        x = by_rows(x)
        _, batch, length, _ = x.shape
        if lengths is not None:
            reads_2BL = jnp.arange(length)[None, None] < lengths[..., None]
            x = jnp.where(reads_2BL[..., None], x, 0)
        clips = {"cell_clip": config.cell_clip, "proj_clip": config.proj_clip}
        one_layer = functools.partial(lstm, dtype=self.dtype, **clips)
        if self.remat != "none":
            one_layer = jax.checkpoint(one_layer)
        state = state or zero_state(config, batch)
        weights = Layers(config, name="layers")()
        drop = Dropout(0.0 if deterministic else config.dropout)
        hidden, carries = [x], []
        for n in range(config.num_layers):
            before = Carry(*(leaf[:batch, n].swapaxes(0, 1) for leaf in state))
            x = drop(x)
            # Gathered before the loop over positions, not in each of its steps.
            each = zip(jax.tree.leaves(weights), _CUT, strict=True)
            layer = Weights(*(mesh.whole(leaf[n], *axes) for leaf, axes in each))
            y, carry = one_layer(x, layer, before, lengths)
            x = by_rows(x + y if config.skip and n > 0 else y)
            hidden.append(x)
            carries.append(jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), carry))
        carried = [jnp.stack(layers, axis=1) for layers in zip(*carries, strict=True)]
        if batch < len(state.cell):
            both = zip(state, carried, strict=True)
            carried = [old.at[:batch].set(new) for old, new in both]
        softmax = softmax and config.vocab_size > 0
        head = Softmax(config, name="softmax")() if softmax else None
        return Read(jnp.stack(hidden), State(*carried), drop(x), head)
