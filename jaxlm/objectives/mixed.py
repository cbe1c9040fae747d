"""Rows that predict each next token beside rows that predict hidden ones (GPT-BERT).

    tokens    [CLS]  a    b    c   [SEP]       a token sees itself and those before
    targets     a    b    c    .     .

Both kinds go through one call of the encoder, in which only the attention takes them
apart (`mesh.joined`, `kernels.attention`). A causal row is predicted at all of its
positions, any other at its hidden tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.mesh import blocks, joined
from jaxlm.metrics import Mean, Sums, add
from jaxlm.models.kernels.head import Head, head_cross_entropy
from jaxlm.objectives.objective import row_shares
from jaxlm.objectives.pairs import Row
from jaxlm.types import GptBatch, MlmBatch

Inputs = tuple[jax.Array, jax.Array, dict[str, Any]]


def next_tokens(row: Row, valid: Any) -> GptBatch:
    """A row with each next token of a text as the target, but not its [SEP]."""
    at = jnp.arange(len(row.tokens))
    segments, positions = row.segments, row.positions
    return GptBatch(
        tokens=row.tokens,
        targets=jnp.roll(row.tokens, -1),
        # Position 0 is [CLS], no candidate.
        weights=jnp.roll(row.candidate, -1) * jnp.asarray(valid, jnp.float32),
        positions=at if positions is None else positions,
        segments=(at < row.length).astype(int) if segments is None else segments,
    )


def inputs_of(batch: MlmBatch | GptBatch, *, packed: bool) -> Inputs:
    """(tokens, token types, facts of the attention) of the rows of one kind."""
    causal = isinstance(batch, GptBatch)
    types = jnp.zeros_like(batch.tokens) if causal else batch.token_types
    facts: dict[str, Any] = {}
    if packed:
        facts = {"segments": batch.segments, "position_ids": batch.positions}
    else:
        facts = {"lengths": _there(batch)[0].sum(-1)}
    return batch.tokens, types, facts


class Heads(NamedTuple):
    """What a batch is predicted with."""

    causal: Head | None  # of the causal rows, [C, L]
    masked: Head | None  # of the masked ones, [M, P]
    nsp_logits: Any = None


def heads_of(
    forward: Callable[..., Any], batch: MlmBatch | GptBatch, *, packed: bool
) -> Heads:
    """Encode the rows of a batch; `forward` applies the module to its inputs."""
    if isinstance(batch, MlmBatch) and batch.causal is not None:
        return _heads_of_both(forward, batch.causal, batch, packed=packed)
    *inputs, facts = inputs_of(batch, packed=packed)
    if isinstance(batch, GptBatch):
        out = forward(*inputs, causal_rows=len(batch.tokens), **facts)
        return Heads(out.head, None)
    out = forward(*inputs, batch.predictions, **facts)
    return Heads(None, out.head, out.nsp_logits)


def _heads_of_both(
    forward: Callable[..., Any], causal: GptBatch, masked: MlmBatch, *, packed: bool
) -> Heads:
    """The model makes the head of both kinds at once, for the rows of a block end to
    end."""
    pair = (inputs_of(each, packed=packed) for each in (causal, masked))
    tokens, types, facts = joined(*pair)
    rows, length = causal.tokens.shape
    count = blocks(rows, len(masked.tokens))
    first = rows // count * length  # so many positions of causal rows in a block
    begin = first + length * jnp.arange(len(masked.tokens) // count)
    places = masked.predictions.reshape(count, len(begin), -1) + begin[None, :, None]
    every = jnp.broadcast_to(jnp.arange(first)[None], (count, first))
    places = jnp.concatenate([every, places.reshape(count, -1)], axis=1)
    out = forward(tokens, types, places, causal_rows=rows, **facts)

    def part(x: jax.Array, like: jax.Array) -> Head:
        return out.head._replace(x=x.reshape(*like.shape, x.shape[-1]))

    x = out.head.x
    return Heads(part(x[:, :first], causal.targets), part(x[:, first:], masked.targets))


def row_sums(languages: Sequence[str], batch: MlmBatch | GptBatch) -> Sums:
    """The share of positions without a token, and each language's share of the rows."""
    inside_BL, rows_B = _there(batch)
    total = inside_BL.shape[1] * rows_B.sum()
    sums = {"padding": Mean(total - (inside_BL.sum(-1) * rows_B).sum(), total)}
    sums |= row_shares(languages, batch.languages, rows_B)
    if isinstance(batch, GptBatch) or batch.causal is None:
        return sums
    return add(sums, row_sums(languages, batch.causal))


def _there(batch: MlmBatch | GptBatch) -> tuple[jax.Array, jax.Array]:
    """(where tokens are [B, L], 0 for rows that only fill a batch [B])"""
    if isinstance(batch, GptBatch):
        return batch.segments > 0, batch.weights.max(-1)
    return batch.mask, batch.nsp_weights


def next_token_sums(head: Head, batch: GptBatch, classes: int) -> Sums:
    """Loss and accuracy of next tokens."""
    aims = batch.targets, batch.weights
    x, table, bias = head
    loss, weight, correct = head_cross_entropy(x, table, *aims, bias, classes=classes)
    return {"lm_loss": Mean(loss, weight), "lm_accuracy": Mean(correct, weight)}
