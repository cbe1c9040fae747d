"""Config and row shape → the arithmetic of a step, for MFU and for planning.

Matrix products only, a multiplication and an addition each, without recomputation:
compilers also count element-wise work, and a scanned layer once.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from jaxlm.config.model import BertConfig


def bert_forward_flops(config: BertConfig, *, length: int, predictions: int) -> int:
    """Of one row through encoder, pooler and both heads.

    Args:
        config: of the model.
        length: L, all of it, padding too; attention is full.
        predictions: P, the positions that the MLM head scores.
    """
    d, f = config.d_model, config.d_ff
    token = config.num_layers * (4 * d * d + 2 * d * f + 2 * d * length)
    row = length * token + predictions * (d * d + d * config.vocab_size)
    if config.nsp:
        row += d * d + 2 * d
    return 2 * row


def bert_train_flops(
    config: BertConfig, *, batch: int, length: int, predictions: int
) -> int:
    """Of one update on `batch` rows: the backward pass costs two forward ones."""
    row = bert_forward_flops(config, length=length, predictions=predictions)
    return 3 * batch * row


def num_parameters(params: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
