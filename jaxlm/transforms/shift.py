"""A span of text → a decoder's row and its targets, one position further.

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

import jax
import jax.numpy as jnp

from jaxlm.types import GptBatch, TokenSpan


def shift_row(
    span: TokenSpan, *, length: int, end_of_document: int, packed: bool
) -> GptBatch:
    """One row of a batch; vmapped, each field gains a leading B.

    Args:
        span: L + 1 tokens, as the layout "stream" reads them.
        length: L.
        end_of_document: id of ↵.
        packed: a segment for each document; False: one segment, positions 0 … L - 1.
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
