"""The rows of a task as language: GPT-1's auxiliary loss.

    tokens     start  a  film  extract  ·  ·
    targets    a  film  extract
    weights    ⅓  ⅓     ⅓      0        0  0       of a row that fills a batch up: 0

L = L_task + λ · L_lm, where a row counts once however long it is and each of several
rows that are one example counts (Radford et al. 2018, equation 5;
openai/finetune-transformer-lm train.py `model`, lm_losses).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.config import GptConfig
from jaxlm.losses import head_cross_entropy
from jaxlm.metrics import Mean
from jaxlm.models.gpt import head_rows
from jaxlm.objectives.objective import Sums
from jaxlm.tasks.rows import TaskBatch


def next_weights(batch: TaskBatch) -> Float[Array, "R L"]:
    """What the token after each one counts, of all rows."""
    mask: Any = batch.mask
    length = mask.shape[-1]
    count = mask.size // length // batch.weights.shape[0]
    follows = mask.reshape(-1, length)[:, 1:].astype(jnp.float32)
    each = follows / jnp.maximum(follows.sum(axis=1, keepdims=True), 1.0)
    rows = jnp.repeat(batch.weights, count)
    return jnp.pad(each * rows[:, None], ((0, 0), (0, 1)))


def language_sums(out: Any, batch: TaskBatch, config: GptConfig) -> Sums:
    """Loss and accuracy of the next token, over rows.

    Args:
        out: the `Encoded` of a decoder, for all rows.
        batch: what it read.
        config: of the decoder.
    """
    tokens: Any = batch.tokens
    tokens_RL = tokens.reshape(-1, tokens.shape[-1])
    weights_RL = next_weights(batch)
    total, weight, correct = head_cross_entropy(
        out.last,
        out.head,
        jnp.roll(tokens_RL, -1, axis=1),
        weights_RL,
        classes=head_rows(config),
    )
    return {"lm_loss": Mean(total, weight), "lm_accuracy": Mean(correct, weight)}
