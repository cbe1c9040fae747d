"""GPT's objective: each next token, with documents end to end in a stream."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.config import GptConfig, Phase, StreamData
from jaxlm.metrics import Mean
from jaxlm.models.gpt import head_rows
from jaxlm.models.kernels.head import head_cross_entropy
from jaxlm.objectives.figures import Text
from jaxlm.objectives.objective import Objective, Sums, given, language_sums, stateless
from jaxlm.transforms.shift import shift_row
from jaxlm.types import GptBatch, Rows, UserError

FIGURES = (Text(name="lm"),)


def causal_lm(
    module: nn.Module,
    config: GptConfig,
    data: StreamData,
    phase: Phase,
    end_of_document: int | None,
    languages: tuple[str, ...] = (),
) -> Objective:
    """GPT's: each next token, with documents end to end in a stream.

    Args:
        module: a decoder.
        config: of the model.
        data: whether documents see each other.
        phase: shape of the rows.
        end_of_document: id of the token after each document.
        languages: of the corpus, by number, whose shares of the rows are told.

    Raises:
        UserError: the corpus has no such token.
    """
    if end_of_document is None:
        raise UserError(
            "the corpus does not mark where its documents end, which a GPT needs: "
            "prepare it with the recipe of one"
        )

    def transform(rows: Rows) -> GptBatch:
        one = functools.partial(
            shift_row,
            length=phase.length,
            end_of_document=end_of_document,
            packed=data.packed,
        )
        batch = jax.vmap(one)(rows.first)
        valid = jnp.asarray(rows.valid, jnp.float32)[:, None]
        weights = batch.weights * valid
        return batch._replace(weights=weights, languages=given(rows.languages))

    def weights(batch: GptBatch) -> dict[str, jax.Array]:
        return {"lm_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}

    def loss(params, batch: GptBatch, key=None) -> Sums:
        packed: dict[str, Any] = {}
        if data.packed:
            packed = {"segments": batch.segments, "position_ids": batch.positions}
        out: Any = module.apply(
            {"params": params},
            batch.tokens,
            **packed,
            logits=False,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        total, weight, correct = head_cross_entropy(
            out.last,
            out.table,
            batch.targets,
            batch.weights,
            classes=head_rows(config),
        )
        rows = batch.weights.max(axis=-1)
        return {
            "lm_loss": Mean(total, weight),
            "lm_accuracy": Mean(correct, weight),
            **language_sums(batch.languages, rows, languages),
        }

    return Objective("stream", transform, weights, stateless(loss), FIGURES)
