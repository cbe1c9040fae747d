"""A trunk of any family with a task's head; its parameters lie where its own lie.

    embed/…  layers/…  pooler/…      as pretrained
    task/kernel [D, Y]  task/bias    new

Devlin et al. 2018, section 4.1; google-research/bert run_classifier.py `create_model`;
Radford et al. 2018, section 3.3. Where an example is several rows, [B, K, L], they are
read as so many more and put together again:

    "add"       their vectors are added: [B, D], then as one
    "choose"    one number each: [B, K], lowest where a row is not there
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from jaxlm.config import ElmoConfig, GptConfig, ModelConfig
from jaxlm.models import build
from jaxlm.models.heads import gather
from jaxlm.models.layers import NEG_INF, Dense, Dropout, Dtype
from jaxlm.models.stack import Remat
from jaxlm.tasks import trunk

Pooling = Literal["pooler", "cls", "mean", "last", "none"]
Join = Literal["", "add", "choose"]
HEAD_STD = 0.02  # run_classifier.py; of every size


class TaskModel(nn.Module):
    """Logits of a row (pooled), or of each of its tokens (pooling "none")."""

    config: ModelConfig  # of the trunk
    outputs: int
    pooling: Pooling
    dtype: Dtype = jnp.float32
    remat: Remat = "none"
    join: Join = ""

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on."""
        inputs = trunk.example(self.config)
        return tuple(x[:, None] for x in inputs) if self.join else inputs

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "B ..."],
        token_types: Int[Array, "B *K L"],
        mask: Bool[Array, "B *K L"],
        *,
        deterministic: bool = True,
        encoded: bool = False,
    ) -> Any:
        """Float32 logits [B, Y] or [B, L, Y]; dropout falls on what they are made from.

        Args:
            tokens: ids [B, L], or characters [B, L, C] of an ELMo's words; [B, K, …]
                where an example is several rows.
            token_types: of the rows, as `mask`.
            mask: True at a row's tokens, which come first.
            deterministic: True switches dropout off.
            encoded: also give what the trunk gives, of all rows: (logits, Encoded).
        """
        rows, mask_BL = mask.shape[:-1], mask.reshape(-1, mask.shape[-1])
        module = build(self.config, dtype=self.dtype, remat=self.remat)
        nn.share_scope(self, module)
        out = trunk.read(
            module,
            tokens.reshape(-1, *tokens.shape[len(rows) :]),
            token_types.reshape(mask_BL.shape),
            mask_BL,
            deterministic=deterministic,
        )
        last_BLD = out.hidden[-1]
        match self.pooling:
            case "pooler":
                assert out.pooled is not None
                x = out.pooled
            case "cls":
                x = last_BLD[:, 0]
            case "mean":
                real_BL1 = mask_BL[..., None].astype(jnp.float32)
                total_BD = (last_BLD.astype(jnp.float32) * real_BL1).sum(1)
                x = total_BD / jnp.maximum(real_BL1.sum(1), 1.0)
            case "last":
                last_B1 = jnp.maximum(mask_BL.sum(1, keepdims=True) - 1, 0)
                x = gather(last_BLD, last_B1)[:, 0]
            case "none":
                x = last_BLD
        if self.join:
            x = x.reshape(*rows, -1)
        if self.join == "add":
            x = x.sum(1)
        # The scope that they share has an ELMo's own Dropout_0.
        name = "drop" if isinstance(self.config, ElmoConfig) else None
        drop = Dropout(0.0 if deterministic else self.config.dropout, name=name)
        # One mask for all alternatives: finetune-transformer-lm train.py.
        x = x * drop(jnp.ones_like(x[:, :1])) if self.join == "choose" else drop(x)
        logits = self._head(x.shape[-1])(x.astype(jnp.float32))
        if self.join == "choose":
            logits = jnp.where(mask.any(-1), logits[..., 0], NEG_INF)
        return (logits, out) if encoded else logits

    def _head(self, width: int) -> Dense:
        """A GPT's has no bias (Radford et al. 2018, equation 3) but where it gives a
        number to each alternative (train.py `clf`), which moves none of them."""
        decoder = isinstance(self.config, GptConfig)
        normal = nn.initializers.normal if decoder else nn.initializers.truncated_normal
        return Dense(
            (width,),
            (self.outputs,),
            normal(HEAD_STD),
            jnp.float32,
            bias=not decoder or self.join == "choose",
            name="task",
        )
