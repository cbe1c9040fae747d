"""An encoder of any family with a task's head, its parameters under their own names.

    embed/…  layers/…  pooler/…      as pretrained
    mix/…  body/…  mix_out/…         new, if they are asked for: `task_layers.py`
    task/kernel [D, Y]  task/bias    new

Devlin et al. 2018, section 4.1; google-research/bert run_classifier.py `create_model`;
Radford et al. 2018, section 3.3. If an example is a group of rows, [B, K, L], they are
encoded as B · K rows and joined again:

    "add"       their vectors are added: [B, D]
    "choose"    one score each: [B, K], the lowest number for an empty row
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from jaxlm.config import ModelConfig
from jaxlm.families import family_of
from jaxlm.models.encoder import Encoded, Remat
from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.models.layers import Dropout, Dtype, gather, same_segment
from jaxlm.tasks.task_layers import (
    AttentionPool,
    BiLstms,
    Body,
    Mixing,
    max_pool,
    mean_pool,
    mixed,
)

Pooling = Literal["pooler", "cls", "mean", "max", "attention", "last", "none"]
PACKED = ("pooler", "cls", "mean", "none")  # poolings that read packed rows
Join = Literal["", "add", "choose"]
# First names of the parameters that are not the encoder's.
OWN = ("mix", "body", "mix_out", "attention", "task")


class TaskModel(nn.Module):
    """Logits of a row, or of each of its tokens with pooling "none"."""

    config: ModelConfig  # of the encoder
    outputs: int
    pooling: Pooling
    dtype: Dtype = jnp.float32
    remat: Remat = "none"
    join: Join = ""
    mixing: Mixing | None = None  # None: the last layer is read
    body: Body | None = None
    head_std: float = 0.02  # run_classifier.py, for every size
    dropout: float | None = None  # before body and head; None: as in the encoder
    frozen: bool = False  # the encoder: no dropout and no gradient

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on."""
        inputs = family_of(self.config).example(self.config)
        return tuple(x[:, None] for x in inputs) if self.join else inputs

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

        Packed rows have [B, L, Y], an example's logits at its first token.

        Args:
            tokens: ids [B, L], or characters [B, L, C] of an ELMo's words; [B, K, …]
                if an example is a group of rows.
            mask: True at a row's tokens, which come first.
            segments: of packed rows, see `TaskBatch`; for poolings in `PACKED`.
            encoded: return (logits, Encoded of all rows).
        """
        rows, mask_BL = mask.shape[:-1], mask.reshape(-1, mask.shape[-1])
        family = family_of(self.config)
        encoder = family.encoder(self.config, dtype=self.dtype, remat=self.remat)
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
        rate = self.config.dropout if self.dropout is None else self.dropout
        rate = 0.0 if deterministic else rate
        x_BLD = self._vectors(out, mask_BL, rate)
        x = self._pooled(out, x_BLD, mask_BL, segments)
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
        x_BLD, mixing = out.hidden[-1], self.mixing
        if mixing:
            x_BLD = mixed(mixing, out.hidden, mask_BL, "mix")
        if self.body:
            x_BLD = BiLstms(self.body, rate, self.dtype, name="body")(x_BLD, mask_BL)
        if mixing and mixing.output:
            beside_BLD = mixed(mixing, out.hidden, mask_BL, "mix_out")
            x_BLD = jnp.concatenate([x_BLD, beside_BLD], axis=-1)
        return x_BLD

    def _pooled(
        self, out: Encoded, x_BLD: Array, mask_BL: Array, segments_BL: Array | None
    ) -> Float[Array, "B D"] | Float[Array, "B L D"]:
        """A vector for each row, or for each of its tokens.

        In packed rows an example's vector is at its first token, at least.
        """
        packed = segments_BL is not None
        if packed and self.pooling not in PACKED:
            raise ValueError(f"pooling {self.pooling} reads no packed rows")
        match self.pooling:
            case "none":
                return x_BLD
            case "pooler":
                assert out.pooled is not None
                return out.pooled
            case "cls":
                return x_BLD if packed else x_BLD[:, 0]
            case "mean" if segments_BL is not None:
                same_BLT = same_segment(segments_BL).astype(jnp.float32)
                share_BLT = same_BLT / same_BLT.sum(-1, keepdims=True)
                x_BLD = x_BLD.astype(jnp.float32)
                return jnp.matmul(share_BLT, x_BLD, precision="highest")
            case "mean":
                return mean_pool(x_BLD, mask_BL)
            case "max":
                return max_pool(x_BLD, mask_BL)
            case "attention":
                return AttentionPool(name="attention")(x_BLD, mask_BL)
            case "last":
                last_B1 = jnp.maximum(mask_BL.sum(1, keepdims=True) - 1, 0)
                return gather(x_BLD, last_B1)[:, 0]

    def _head(self) -> nn.Dense:
        """A GPT's head has no bias (Radford et al. 2018, equation 3) but in multiple
        choice, where a bias changes nothing (finetune-transformer-lm `clf`)."""
        decoder = not family_of(self.config).bidirectional
        normal = nn.initializers.normal if decoder else nn.initializers.truncated_normal
        return nn.Dense(
            self.outputs,
            use_bias=not decoder or self.join == "choose",
            dtype=jnp.float32,
            kernel_init=normal(self.head_std),
            name="task",
        )
