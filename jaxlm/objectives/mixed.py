"""Rows that predict each next token beside rows that predict hidden ones (GPT-BERT).

    tokens    [CLS]  a    b    c   [SEP]       a token sees itself and those before
    targets     a    b    c    .     .

Both kinds go through one call of the encoder, in which only the attention takes them
apart (`mesh.joined`, `kernels.attention`). A causal row is predicted at all of its
positions, any other at its hidden tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxlm.mesh import blocks, joined
from jaxlm.models.kernels.head import Head
from jaxlm.objectives.pairs import Row
from jaxlm.types import MlmBatch

NEXT, HIDDEN = "lm", "mlm"  # the kinds of rows, by the name of their figures


def next_tokens(row: Row, rows: Any) -> MlmBatch:
    """A row whose targets are the next tokens of its texts, without their [SEP]."""
    at, valid = jnp.arange(len(row.tokens)), jnp.asarray(rows.valid, jnp.float32)
    return MlmBatch(
        tokens=row.tokens,
        token_types=row.token_types,
        mask=at < row.length,
        predictions=at,
        targets=jnp.roll(row.tokens, -1),
        weights=jnp.roll(row.candidate, -1) * valid,  # the first token is no candidate
        nsp_labels=row.nsp_label,
        nsp_weights=valid,
        languages=rows.languages,
        segments=row.segments,
        positions=row.positions,
    )


def heads_of(
    forward: Callable[..., Any], kinds: Mapping[str, MlmBatch], *, packed: bool
) -> tuple[dict[str, Head], Any]:
    """(the head of each kind of rows, the logits of the question on the row).

    `forward` applies the module to its inputs. For two kinds, the model makes one head,
    for all rows of a block end to end.
    """
    inputs = [_inputs(each, packed) for each in kinds.values()]
    tokens, types, facts = joined(*inputs) if len(inputs) == 2 else inputs[0]
    if NEXT in kinds:
        facts["causal_rows"] = len(kinds[NEXT].tokens)
    if len(kinds) == 1:
        ((name, batch),) = kinds.items()
        places = batch.predictions if name == HIDDEN else None
        out = forward(tokens, types, places, **facts)
        return {name: out.head}, out.nsp_logits
    count = blocks(*(len(each.tokens) for each in kinds.values()))
    found, begin = [], 0
    for each in kinds.values():
        rows, length = len(each.tokens) // count, tokens.shape[1]
        first = begin + length * jnp.arange(rows)
        found.append(each.predictions.reshape(count, rows, -1) + first[None, :, None])
        begin += length * rows
    places = [each.reshape(count, -1) for each in found]
    out = forward(tokens, types, jnp.concatenate(places, axis=1), **facts)
    cut = jnp.split(out.head.x, [places[0].shape[1]], axis=1)
    heads = {
        name: out.head._replace(x=x.reshape(*each.targets.shape, -1))
        for x, (name, each) in zip(cut, kinds.items(), strict=True)
    }
    return heads, None


def _inputs(batch: MlmBatch, packed: bool) -> tuple[Any, Any, dict[str, Any]]:
    facts = {"lengths": batch.mask.sum(-1)}
    if packed:
        facts = {"segments": batch.segments, "position_ids": batch.positions}
    return batch.tokens, batch.token_types, facts
