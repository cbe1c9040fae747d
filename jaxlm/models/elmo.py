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

The state of what was read before is an argument and a result. Dropout is where the
original has it: on the input of each layer, before its skip connection branches off,
and on the input of the softmax.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from jaxlm.config.model import ElmoConfig
from jaxlm.models.charcnn import CharCnn, uniform
from jaxlm.models.dropout import Dropout
from jaxlm.models.encoder import Encoded, Remat
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.kernels.lstm import Carry, Weights, flip_backward, lstm
from jaxlm.models.layers import Dtype


class State(NamedTuple):
    """The LSTMs' state in both directions after each row, float32; zeros at first."""

    cell: Float[Array, "B N 2 F"]
    out: Float[Array, "B N 2 D"]


class Head(NamedTuple):
    """The softmax that both directions share; rows past the vocabulary only pad it."""

    table: Float[Array, "R D"]
    bias: Float[Array, "R"]


class Read(NamedTuple):
    """Two texts, each in its own order of reading."""

    hidden: Float[Array, "N+1 2 B L D"]  # the words' vectors, then every layer
    state: State
    last: Float[Array, "2 B L D"]  # of the top layer, as the softmax multiplies it
    head: Head | None


def head_rows(config: ElmoConfig) -> int:
    """Rows of the softmax: the vocabulary and what makes it a multiple of 128."""
    return -(-config.vocab_size // 128) * 128


def zero_state(config: ElmoConfig, batch: int) -> State:
    """The state of `batch` rows that have read nothing."""
    shape = batch, config.num_layers, 2
    return State(jnp.zeros((*shape, config.d_ff)), jnp.zeros((*shape, config.d_model)))


class Elmo(nn.Module):
    """The language model of both directions."""

    config: ElmoConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"  # "dots", "full": the backward pass repeats each layer

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on."""
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
        """Read each row forwards, and backwards from its own end.

        Args:
            state: of the batch before; None: zeros. It may have more rows: these stay
                as they are.
            lengths: words of each row; None: L. Hidden states behind them are 0.
            logits: False leaves out the softmax; so does a vocabulary of 0.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.

        Returns:
            Hidden states [N+1, B, L, 2 D], layer 0 a word's vector twice; the logits
            lm [2, B, L, V] are those of the next word and of the one before.
        """
        both = functools.partial(flip_backward, lengths_B=lengths)
        read = self._read(
            characters_BLC,
            lambda x_BLD: both(jnp.stack([x_BLD, x_BLD])),
            None if lengths is None else jnp.stack([lengths, lengths]),
            state,
            deterministic=deterministic,
            softmax=logits and self.config.vocab_size > 0,
        )
        hidden = jax.vmap(both)(read.hidden)
        hidden = jnp.concatenate([hidden[:, 0], hidden[:, 1]], axis=-1)
        heads = {}
        if read.head is not None:
            table_VD, bias_V = (x[: self.config.vocab_size] for x in read.head)
            scores = tied_logits(both(read.last), table_VD)
            heads["lm"] = scores + bias_V[None, None, None]
        return Encoded(hidden, heads=heads, carry=read.state)

    def read(
        self,
        characters_2BLC: Integer[Array, "2 B L C"],
        state: State | None = None,
        *,
        lengths: Int[Array, "2 B"] | None = None,
        softmax: bool = True,
        deterministic: bool = True,
    ) -> Read:
        """Read two texts, the second of which the caller has reversed.

        Args:
            state: as in `__call__`.
            lengths: words of each row; None: L.
            softmax: False leaves its weights alone.
            deterministic: True switches dropout off; else pass rngs={"dropout": key}.
        """
        return self._read(
            characters_2BLC,
            lambda x_2BLD: x_2BLD,
            lengths,
            state,
            deterministic=deterministic,
            softmax=softmax and self.config.vocab_size > 0,
        )

    @nn.compact
    def _read(
        self,
        characters: Array,
        order: Callable[[Array], Array],
        lengths_2B: Array | None,
        state: State | None,
        *,
        deterministic: bool,
        softmax: bool,
    ) -> Read:
        config = self.config
        if characters.shape[-1] != config.max_characters:
            raise ValueError(
                f"{characters.shape[-1]} characters a word, model.max_characters = "
                f"{config.max_characters}"
            )
        drop = Dropout(0.0 if deterministic else config.dropout)
        x_2BLD = order(CharCnn(config, self.dtype, name="words")(characters))
        _, batch, length, _ = x_2BLD.shape
        if lengths_2B is not None:
            reads_2BL = jnp.arange(length)[None, None] < lengths_2B[..., None]
            x_2BLD = jnp.where(reads_2BL[..., None], x_2BLD, 0)
        if state is None:
            state = zero_state(config, batch)
        one_layer = functools.partial(
            lstm,
            cell_clip=config.cell_clip,
            proj_clip=config.proj_clip,
            dtype=self.dtype,
        )
        if self.remat != "none":
            one_layer = jax.checkpoint(one_layer)
        weights = Layers(config, name="layers")()
        hidden, carries = [x_2BLD], []
        for n in range(config.num_layers):
            before = jax.tree.map(lambda x, n=n: x[:batch, n].swapaxes(0, 1), state)
            x_2BLD = drop(x_2BLD)
            y_2BLD, carry = one_layer(
                x_2BLD,
                jax.tree.map(lambda x, n=n: x[n], weights),
                Carry(*before),
                lengths_2B,
            )
            x_2BLD = x_2BLD + y_2BLD if config.skip and n > 0 else y_2BLD
            hidden.append(x_2BLD)
            carries.append(carry)
        return Read(
            hidden=jnp.stack(hidden),
            state=_carried(state, carries),
            last=drop(x_2BLD),
            head=Softmax(config, name="softmax")() if softmax else None,
        )


class Layers(nn.Module):
    """Weights of all layers and directions."""

    config: ElmoConfig

    @nn.compact
    def __call__(self) -> Weights:
        """Float32, with leading axes N, 2."""
        config = self.config
        lead, d, f = (config.num_layers, 2), config.d_model, config.d_ff
        # Glorot's, TensorFlow's default, for each matrix by itself.
        kernel, projection = (
            uniform(math.sqrt(6 / (2 * d + 4 * f))),
            uniform(math.sqrt(6 / (f + d))),
        )
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
        """Table and bias, float32."""
        rows, width = head_rows(self.config), self.config.d_model

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            table = jax.random.normal(key, shape) / math.sqrt(width)
            return table.at[self.config.vocab_size :].set(0)

        return Head(
            self.param("table", init, (rows, width)),
            self.param("bias", nn.initializers.zeros, (rows,)),
        )


def _carried(state: State, carries: list[Carry]) -> State:
    """The layers' carries; rows of `state` beyond the batch stay as they were."""

    def one(old: Array, *layers: Array) -> Array:
        new = jnp.stack(layers).transpose(2, 0, 1, 3)
        return new if len(new) == len(old) else old.at[: len(new)].set(new)

    cells, outs = zip(*carries, strict=True)
    return State(one(state.cell, *cells), one(state.out, *outs))
