"""The model families: one record each, found by the type of the config."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.config import ModelConfig
from jaxlm.families.bert import BERT
from jaxlm.families.elmo import ELMO
from jaxlm.families.family import Family
from jaxlm.families.gpt import GPT
from jaxlm.tree import is_padded, leaves

FAMILIES = (BERT, GPT, ELMO)


def family_of(config: ModelConfig) -> Family:
    """The record of a config's family."""
    return next(each for each in FAMILIES if type(config) is each.config)


def build(config: ModelConfig, *, dtype: Any = jnp.float32, **how: Any):
    """The module that is pretrained; `dtype` is that of its matrix products, `how` are
    its `remat` and the `road` of its attention."""
    return family_of(config).build(config, dtype=dtype, **how)


def parameter_shapes(config: ModelConfig) -> Any:
    """The parameter tree of a config, as shapes."""
    module = build(config)
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), *module.example())["params"]
    )


def num_parameters(params: Any, config: ModelConfig | None = None) -> int:
    """The number of parameters in a tree of arrays or shapes; with `config`, padding of
    the vocabulary does not count."""

    def size(path: str, shape: tuple[int, ...]) -> int:
        if config and is_padded(path):
            shape = min(shape[0], config.vocab_size), *shape[1:]
        return math.prod(shape)

    return sum(size(path, leaf.shape) for path, leaf in leaves(params))
