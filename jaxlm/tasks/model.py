"""A trunk of any family with a task's head; its parameters lie where its own lie.

    embed/…  layers/…  pooler/…      as pretrained
    task/kernel [D, Y]  task/bias    new

Devlin et al. 2018, section 4.1; google-research/bert run_classifier.py `create_model`.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from jaxlm.config import ElmoConfig, ModelConfig
from jaxlm.models import build
from jaxlm.models.layers import Dense, Dropout, Dtype
from jaxlm.models.stack import Remat
from jaxlm.tasks import trunk

Pooling = Literal["pooler", "cls", "mean", "none"]
HEAD_STD = 0.02  # run_classifier.py; of every size


class TaskModel(nn.Module):
    """Logits of a row (pooled), or of each of its tokens (pooling "none")."""

    config: ModelConfig  # of the trunk
    outputs: int
    pooling: Pooling
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def example(self) -> tuple[Any, ...]:
        """A row to initialise on."""
        return trunk.example(self.config)

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "B L"] | Integer[Array, "B L C"],
        token_types_BL: Int[Array, "B L"],
        mask_BL: Bool[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B Y"] | Float[Array, "B L Y"]:
        """Float32 logits; dropout falls on what they are made from."""
        module = build(self.config, dtype=self.dtype, remat=self.remat)
        nn.share_scope(self, module)
        out = trunk.read(
            module, tokens, token_types_BL, mask_BL, deterministic=deterministic
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
            case "none":
                x = last_BLD
        # The scope that they share has an ELMo's own Dropout_0.
        name = "drop" if isinstance(self.config, ElmoConfig) else None
        x = Dropout(0.0 if deterministic else self.config.dropout, name=name)(x)
        init = nn.initializers.truncated_normal(HEAD_STD)
        inputs, outputs = x.shape[-1:], (self.outputs,)
        head = Dense(inputs, outputs, init, jnp.float32, name="task")
        return head(x.astype(jnp.float32))
