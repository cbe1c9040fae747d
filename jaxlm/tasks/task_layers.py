"""What a task adds between the encoder and its head.

    hidden states ── mix ──── BiLSTM, BiLSTM … ──┬── pool ── head
                  └─ mix ────────────────────────┘              with mix = both

Peters et al. 2018, sections 3.2 and 3.3: features of a frozen language model, mixed for
the task, at the input of the task's model and also at its output.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.models.kernels.lstm import Carry, Weights, flip_backward, lstm
from jaxlm.models.layers import Dropout, Dtype, ScalarMix, mix_penalty, uniform

MIXES = ("mix", "mix_out")  # names of their parameters


class Mixing(NamedTuple):
    """Which hidden states are mixed, and how."""

    layers: tuple[int, ...] = ()  # their numbers; empty: all
    normalise: bool = False
    output: bool = False  # a second mix is concatenated to the output of the body


def mixed(
    mixing: Mixing,
    hidden_MBLD: Float[Array, "M B L D"],
    mask_BL: Bool[Array, "B L"],
    name: str,
) -> Float[Array, "B L D"]:
    """γ Σ softmax(w)_n hidden_n over the chosen layers; call it in a compact module."""
    if mixing.layers:
        hidden_MBLD = jnp.stack([hidden_MBLD[n] for n in mixing.layers])
    return ScalarMix(mixing.normalise, name=name)(hidden_MBLD, mask_BL)


class Body(NamedTuple):
    """The size of a stack of BiLSTMs."""

    width: int  # cells of a direction
    depth: int

    def flops(self, inputs: int, length: int) -> int:
        """FLOP of one row of `length` vectors of width `inputs`."""
        token = 0
        for _ in range(self.depth):
            token += 2 * 4 * self.width * (inputs + self.width)
            inputs = 2 * self.width
        return 2 * length * token


class BiLstms(nn.Module):
    """A stack of BiLSTMs."""

    body: Body
    dropout: float  # of the inputs of each layer
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B L O"]:
        """Both directions side by side; 0 at padding."""
        for n in range(self.body.depth):
            x_BLD = Dropout(self.dropout)(x_BLD)
            layer = BiLstm(self.body.width, self.dtype, name=f"layer_{n}")
            x_BLD = layer(x_BLD, mask_BL)
        return x_BLD


class BiLstm(nn.Module):
    """torch's bidirectional LSTM, but the forget gate's bias starts at 1."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B L O"]:
        """Both directions side by side; 0 at padding."""
        inputs, width = x_BLD.shape[2] + self.width, self.width
        init = uniform(1 / math.sqrt(width))
        weights = Weights(
            self.param("kernel", init, (2, inputs, 4, width)),
            self.param("bias", nn.initializers.zeros, (2, 4, width)),
            None,
        )
        lengths_B = mask_BL.sum(axis=1)
        zeros = jnp.zeros((2, len(x_BLD), width))
        y_2BLF, _ = lstm(
            flip_backward(jnp.stack([x_BLD, x_BLD]), lengths_B),
            weights,
            Carry(zeros, zeros),
            jnp.stack([lengths_B, lengths_B]),
            dtype=self.dtype,
        )
        return jnp.concatenate(list(flip_backward(y_2BLF, lengths_B)), axis=-1)


class AttentionPool(nn.Module):
    """Σ softmax(x · kernel) x over a row's tokens, with one learnt query."""

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B D"]:
        """Float32; the plain mean at initialisation."""
        x_BLD = x_BLD.astype(jnp.float32)
        kernel_D = self.param("kernel", nn.initializers.zeros, x_BLD.shape[2:])
        score_BL = jnp.where(mask_BL, x_BLD @ kernel_D, NEG_INF)
        return jnp.einsum("bl,bld->bd", jax.nn.softmax(score_BL), x_BLD)


def mean_pool(
    x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
) -> Float[Array, "B D"]:
    """The mean of a row's tokens, float32."""
    real_BL1 = mask_BL[..., None].astype(jnp.float32)
    total_BD = (x_BLD.astype(jnp.float32) * real_BL1).sum(1)
    return total_BD / jnp.maximum(real_BL1.sum(1), 1.0)


def max_pool(
    x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
) -> Float[Array, "B D"]:
    """The maximum of each channel over a row's tokens, float32."""
    return jnp.where(mask_BL[..., None], x_BLD.astype(jnp.float32), NEG_INF).max(1)


def penalty_of(params: dict, strength: float) -> Float[Array, ""]:
    """λ‖w‖² of all mixes."""
    found = [mix_penalty(params[name], strength) for name in MIXES if name in params]
    return jnp.stack(found).sum()


def mix_figures(params: dict, layers: tuple[int, ...]) -> dict[str, float]:
    """The weight of each mixed layer in each mix, and γ; no `layers`: all are mixed."""
    out: dict[str, float] = {}
    for name in MIXES:
        if name not in params:
            continue
        weights = np.asarray(params[name]["weights"], np.float64)
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        for n, weight in zip(layers or range(len(weights)), weights, strict=True):
            out[f"{name}_layer{n}"] = float(weight)
        out[f"{name}_gamma"] = float(params[name]["scale"])
    return out
