"""An encoder of any family with a task's layers and head.

    embed/…  layers/…  pooler/…      as pretrained, under their own names
    mix/…  body/…  mix_out/…         new, if they are asked for
    task/kernel [D, Y]  task/bias    new
    mlm/dense/…  mlm/norm/…          a ModernBERT's, between pooling and the head

    hidden states ── mix ──── BiLSTM, BiLSTM … ──┬── pool ── head
                  └─ mix ────────────────────────┘              with mix = both

Devlin et al. 2018, section 4.1; google-research/bert run_classifier.py `create_model`;
Radford et al. 2018, section 3.3. Mixes are as in Peters et al. 2018, sections 3.2 and
3.3: features of a frozen language model, at the input of the task's body or also at its
output. If an example is a group of rows, [B, K, L], all B · K rows are encoded, then
joined:

    "add"       their vectors are added: [B, D]
    "choose"    one score each: [B, K], the lowest number for an empty row
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from jaxlm.config import BertConfig, ModelConfig, TaskConfig
from jaxlm.families import family_of
from jaxlm.models.bert import MlmTransform
from jaxlm.models.encoder import Encoded, Remat
from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.models.kernels.fused import Road
from jaxlm.models.kernels.lstm import Carry, Weights, flip_backward, lstm
from jaxlm.models.layers import (
    Dropout,
    Dtype,
    gather,
    same_segment,
    uniform,
)
from jaxlm.models.mix import ScalarMix

Pooling = Literal["pooler", "cls", "mean", "max", "attention", "last", "none"]
PACKED = ("pooler", "cls", "mean", "none")  # poolings that read packed rows
Join = Literal["", "add", "choose"]
MIXES = ("mix", "mix_out")
# First names of the parameters that are not the encoder's.
OWN = (*MIXES, "body", "attention", "task")


class TaskModel(nn.Module):
    """An encoder with a head: logits of rows or, with pooling "none", of tokens."""

    config: ModelConfig  # of the encoder
    fields: TaskConfig
    outputs: int
    pooling: Pooling
    join: Join = ""
    dtype: Dtype = jnp.float32
    remat: Remat = "none"
    road: Road = "auto"
    frozen: bool = False  # the encoder: no dropout and no gradient

    def example(self) -> tuple[Any, ...]:
        """Inputs to initialise with."""
        inputs = family_of(self.config).example(self.config)
        return tuple(x[:, None] for x in inputs) if self.join else inputs

    def row_flops(self, length: int) -> int:
        """FLOP of a row in training; the backward pass costs twice the forward pass."""
        family, fields = family_of(self.config), self.fields
        predictions = length if fields.lm_weight > 0 else 0
        encoder = family.forward_flops(self.config, length, predictions)
        body, inputs = 0, family.width(self.config)
        for _ in range(fields.depth if fields.body == "bilstm" else 0):
            body += 2 * length * 2 * 4 * fields.width * (inputs + fields.width)
            inputs = 2 * fields.width
        return encoder * (1 if self.frozen else 3) + 3 * body

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "B ..."],
        token_types: Int[Array, "B *K L"],
        mask: Bool[Array, "B *K L"],
        *,
        segments: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
        encoded: bool = False,
    ) -> Any:
        """Float32 logits [B, Y] or [B, L, Y].

        For packed rows they are [B, L, Y], with those of an example at its first token.

        Args:
            tokens: ids [B, L], or characters [B, L, C] of an ELMo's words; [B, K, …]
                if an example is a group of rows.
            mask: True at tokens, False at padding after them.
            segments: those of packed rows, see `TaskBatch`; for poolings in `PACKED`.
            encoded: return (logits, Encoded of all rows).
        """
        rows, mask_BL = mask.shape[:-1], mask.reshape(-1, mask.shape[-1])
        family = family_of(self.config)
        encoder = family.encoder(
            self.config, dtype=self.dtype, remat=self.remat, road=self.road
        )
        nn.share_scope(self, encoder)
        out, _ = family.encode(
            encoder,
            tokens.reshape(-1, *tokens.shape[len(rows) :]),
            token_types.reshape(mask_BL.shape),
            mask_BL,
            segments=segments,
            deterministic=deterministic or self.frozen,
        )
        if self.frozen:
            out = jax.lax.stop_gradient(out)
        rate = self.fields.dropout
        rate = self.config.dropout if rate < 0 else rate
        rate = 0.0 if deterministic else rate
        x = self._pooled(out, self._vectors(out, mask_BL, rate), mask_BL, segments)
        if reads_by_mlm(self.config, self.fields):
            x = MlmTransform(self.config, x.shape[-1], self.dtype, name="mlm")(x)
        if self.join:
            x = x.reshape(*rows, -1)
        if self.join == "add":
            x = x.sum(1)
        there = mask.any(-1)
        if self.join == "choose":
            # A vector pooled over no token may be infinite.
            x = jnp.where(there[..., None], x, 0)
        # An ELMo has a Dropout_0 of its own in the shared scope.
        drop = Dropout(rate, name="drop" if family.stateful else None)
        # One dropout mask for all alternatives: finetune-transformer-lm train.py.
        x = x * drop(jnp.ones_like(x[:, :1])) if self.join == "choose" else drop(x)
        logits = self._head()(x.astype(jnp.float32))
        if self.join == "choose":
            logits = jnp.where(there, logits[..., 0], NEG_INF)
        return (logits, out) if encoded else logits

    def _vectors(
        self, out: Encoded, mask_BL: Array, rate: float
    ) -> Float[Array, "B L D"]:
        """A vector for each token: the last layer or a mix of layers, then the body."""
        x_BLD, fields, hidden = out.hidden[-1], self.fields, out.hidden
        if fields.layers:
            hidden = jnp.stack([hidden[n] for n in fields.layers])
        if fields.mix != "none":
            x_BLD = ScalarMix(fields.normalise, name="mix")(hidden, mask_BL)
        if fields.body == "bilstm":
            body = BiLstms(fields.width, fields.depth, rate, self.dtype, name="body")
            x_BLD = body(x_BLD, mask_BL)
        if fields.mix == "both":
            beside_BLD = ScalarMix(fields.normalise, name="mix_out")(hidden, mask_BL)
            x_BLD = jnp.concatenate([x_BLD, beside_BLD], axis=-1)
        return x_BLD

    def _pooled(
        self, out: Encoded, x_BLD: Array, mask_BL: Array, segments_BL: Array | None
    ) -> Float[Array, "B D"] | Float[Array, "B L D"]:
        """A vector for each row, or for each of its tokens.

        In packed rows, the vector at an example's first token is that of the example.
        """
        if self.pooling == "pooler":
            assert out.pooled is not None
            return out.pooled
        if self.pooling == "attention" and segments_BL is None:
            return AttentionPool(name="attention")(x_BLD, mask_BL)
        if segments_BL is None:
            return pool(self.pooling, x_BLD, mask_BL)
        if self.pooling != "mean":
            return x_BLD
        same_BLT = same_segment(segments_BL).astype(jnp.float32)
        share_BLT = same_BLT / same_BLT.sum(-1, keepdims=True)
        return jnp.matmul(share_BLT, x_BLD.astype(jnp.float32), precision="highest")

    def _head(self) -> nn.Dense:
        """The head. A GPT's has no bias (Radford et al. 2018, equation 3), except in
        multiple choice, where it has no effect (finetune-transformer-lm `clf`)."""
        decoder = not family_of(self.config).bidirectional
        normal = nn.initializers.normal if decoder else nn.initializers.truncated_normal
        return nn.Dense(
            self.outputs,
            use_bias=not decoder or self.join == "choose",
            dtype=jnp.float32,
            kernel_init=normal(self.fields.head_std),
            name="task",
        )


def pool(
    pooling: Pooling, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
) -> Float[Array, "B D"] | Float[Array, "B L D"]:
    """A vector for each row, if pooling has no parameters; "none" returns `x_BLD`."""
    match pooling:
        case "cls":
            return x_BLD[:, 0]
        case "mean":
            real_BL1 = mask_BL[..., None].astype(jnp.float32)
            total_BD = (x_BLD.astype(jnp.float32) * real_BL1).sum(1)
            return total_BD / jnp.maximum(real_BL1.sum(1), 1.0)
        case "max":
            x_BLD = x_BLD.astype(jnp.float32)
            return jnp.where(mask_BL[..., None], x_BLD, NEG_INF).max(1)
        case "last":
            last_B1 = jnp.maximum(mask_BL.sum(1, keepdims=True) - 1, 0)
            return gather(x_BLD, last_B1)[:, 0]
    return x_BLD


def reads_by_mlm(config: ModelConfig, fields: TaskConfig) -> bool:
    """Whether the head reads what the MLM head of a ModernBERT reads: its classes for
    tasks in transformers have that dense layer and norm, as pretrained."""
    modern = isinstance(config, BertConfig) and config.layout == "modernbert"
    return modern and fields.mix == "none" and fields.body == "none"


class AttentionPool(nn.Module):
    """Pooling with one learnt query: Σ softmax(x · kernel) x over a row's tokens."""

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B D"]:
        """The pooled vectors, float32; initially the plain mean."""
        x_BLD = x_BLD.astype(jnp.float32)
        kernel_D = self.param("kernel", nn.initializers.zeros, x_BLD.shape[2:])
        score_BL = jnp.where(mask_BL, x_BLD @ kernel_D, NEG_INF)
        return jnp.einsum("bl,bld->bd", jax.nn.softmax(score_BL), x_BLD)


class BiLstms(nn.Module):
    """A stack of BiLSTMs."""

    width: int  # cells of a direction
    depth: int
    dropout: float  # of the inputs of each layer
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]
    ) -> Float[Array, "B L O"]:
        """Both directions side by side; 0 at padding."""
        for n in range(self.depth):
            x_BLD = Dropout(self.dropout)(x_BLD)
            x_BLD = BiLstm(self.width, self.dtype, name=f"layer_{n}")(x_BLD, mask_BL)
        return x_BLD


class BiLstm(nn.Module):
    """torch's bidirectional LSTM, except that the forget gate's bias starts at 1."""

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


def mix_figures(params: dict, layers: tuple[int, ...]) -> dict[str, float]:
    """Name → weight of each layer in each mix, and γ; empty `layers`: all layers."""
    out: dict[str, float] = {}
    for name in MIXES:
        if name not in params:
            continue
        weights = np.asarray(params[name]["weights"], np.float64)
        weights = np.exp(weights - np.logaddexp.reduce(weights))
        for n, weight in zip(layers or range(len(weights)), weights, strict=True):
            out[f"{name}_layer{n}"] = float(weight)
        out[f"{name}_gamma"] = float(params[name]["scale"])
    return out
