"""Tokens → hidden states and logits, a file a family; `build` picks it by config."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.config.model import BertConfig, ElmoConfig, GptConfig, ModelConfig
from jaxlm.models.bert import Bert
from jaxlm.models.elmo import Elmo, zero_state
from jaxlm.models.encoder import Remat
from jaxlm.models.gpt import Gpt

LanguageModel = Bert | Gpt | Elmo


def zero_carry(module: Any, rows: int) -> Any:
    """What a module carries from batch to batch, before the first; () but an ELMo's."""
    return zero_state(module.config, rows) if isinstance(module, Elmo) else ()


def build(
    config: ModelConfig, *, dtype: Any = jnp.float32, remat: Remat = "none"
) -> LanguageModel:
    """The module of a config's family.

    Args:
        config: its shape.
        dtype: of the matrix products.
        remat: what the backward pass computes again.
    """
    match config:
        case BertConfig():
            return Bert(config, dtype=dtype, remat=remat)
        case GptConfig():
            return Gpt(config, dtype=dtype, remat=remat)
        case ElmoConfig():
            return Elmo(config, dtype=dtype, remat=remat)


def parameter_shapes(config: ModelConfig) -> Any:
    """The parameter tree of a config, as shapes."""
    module = build(config)
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), *module.example())["params"]
    )
