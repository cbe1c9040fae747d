"""GPT's objective: predict each next token, with documents end to end in a stream.

    span        ↵   a   b   c   ↵   d   e         L + 1 tokens; ↵ ends a document
    tokens      ↵   a   b   c   ↵   d
    targets     a   b   c   ↵   d   e

    packed:
    segments    1   1   1   1   2   2             attention stays inside a segment
    positions   0   1   2   3   0   1

↵ ends one document and begins the next, as GPT-2's `<|endoftext|>` does: it is the last
target of its document and the first token of the next segment. A packed row is a series
of documents [↵ a b c] → [a b c ↵]. If a row begins inside a document, its first segment
has no ↵, and its positions start at 0. Nothing here is random.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.config import Phase, RunConfig
from jaxlm.metrics import Figure, Mean, Sums, Text
from jaxlm.models.gpt import head_rows
from jaxlm.models.kernels.head import head_cross_entropy
from jaxlm.objectives.objective import Objective, apply, row_shares, stateless
from jaxlm.text.corpus import Manifest
from jaxlm.types import GptBatch, Rows, TokenSpan


def causal_figures(run: RunConfig) -> tuple[Figure, ...]:
    """The figures of next-token prediction."""
    return (Text(name="lm"),)


def causal_lm(
    run: RunConfig, module: nn.Module, manifest: Manifest, phase: Phase, stream: str
) -> Objective:
    """The objective: predict each next token in a stream of documents."""
    model: Any = run.model
    data: Any = run.data
    end: Any = manifest.end_of_document  # `StreamRows` refuses a corpus without it
    shift = functools.partial(
        shift_row, length=phase.length, end_of_document=end, packed=data.packed
    )

    def transform(rows: Rows) -> GptBatch:
        batch = jax.vmap(shift)(rows.first)
        weights_BL = batch.weights * jnp.asarray(rows.valid, jnp.float32)[:, None]
        languages: Any = rows.languages
        return batch._replace(weights=weights_BL, languages=languages)

    def weights(batch: GptBatch) -> dict[str, jax.Array]:
        return {"lm_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}

    def loss(params, batch: GptBatch, key=None) -> Sums:
        facts: dict[str, Any] = {"logits": False}
        if data.packed:
            facts |= {"segments": batch.segments, "position_ids": batch.positions}
        out = apply(module, params, key, batch.tokens, **facts)
        aims = batch.targets, batch.weights
        total, weight, correct = head_cross_entropy(
            out.head.x, out.head.table, *aims, classes=head_rows(model)
        )
        return {
            "lm_loss": Mean(total, weight),
            "lm_accuracy": Mean(correct, weight),
            **row_shares(manifest.languages, batch.languages, batch.weights.max(-1)),
        }

    return Objective("stream", transform, weights, stateless(loss), causal_figures(run))


def shift_row(
    span: TokenSpan, *, length: int, end_of_document: int, packed: bool
) -> GptBatch:
    """The first L = `length` tokens of a span, and the targets: each next token.

    `packed`: a segment for each document; else one segment, positions 0 … L - 1.
    """
    text = jnp.asarray(span.tokens)
    tokens_L, targets_L = text[:length], text[1:]
    at = jnp.arange(length)
    if packed:
        starts_L = (tokens_L == end_of_document) | (at == 0)
        segments_L = jnp.cumsum(starts_L)
        positions_L = at - jax.lax.cummax(jnp.where(starts_L, at, 0))
    else:
        segments_L, positions_L = jnp.ones_like(at), at
    inside_L = at < span.length - 1
    return GptBatch(
        tokens=tokens_L,
        targets=targets_L,
        weights=inside_L.astype(jnp.float32),
        positions=positions_L,
        segments=jnp.where(inside_L, segments_L, 0),
    )
