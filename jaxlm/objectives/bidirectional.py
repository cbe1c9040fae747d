"""ELMo's objective: each next word and each one before, in two streams of text."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.config import BilmData, ElmoConfig
from jaxlm.losses import Sample, sampled_cross_entropy
from jaxlm.metrics import Mean
from jaxlm.models import elmo
from jaxlm.models.kernels.head import head_cross_entropy
from jaxlm.objectives.figures import BothDirections, Direction
from jaxlm.objectives.objective import Objective, SampledRows, Sums
from jaxlm.transforms.negatives import Negatives, draw_negatives, log_expected
from jaxlm.types import ElmoBatch, WordRows

WAYS = ("forward", "backward")
FIGURES = (
    *(Direction(name=way, scale=0.5) for way in WAYS),
    *(Direction(name=f"{way}_sampled", scale=0.5) for way in WAYS),
    BothDirections(name="lm", scale=0.0, parts=WAYS),
)


def bidirectional_lm(
    module: nn.Module, config: ElmoConfig, data: BilmData, *, few_rows: bool
) -> Objective:
    """ELMo's: each next word and each one before, half of the mean of either.

    Args:
        module: an Elmo.
        config: of the model.
        data: how many words a target is told from in training.
        few_rows: the optimiser leaves rows without a gradient as they are (Adagrad), so
            that only the rows of the softmax that a sample reads need be updated.
    """
    count, known = data.negatives, config.vocab_size

    def transform(rows: WordRows) -> ElmoBatch:
        return ElmoBatch(
            characters=jnp.asarray(rows.characters),
            targets=jnp.asarray(rows.targets),
            weights=jnp.asarray(rows.valid, jnp.float32),
        )

    def weights(batch: ElmoBatch) -> dict[str, jax.Array]:
        kind = "sampled_loss" if count else "loss"
        totals = jnp.maximum(batch.weights.sum((0, 2)), 1.0)
        return {f"{way}_{kind}": totals[i] for i, way in enumerate(WAYS)}

    def negatives(key: jax.Array) -> tuple[Negatives, Negatives]:
        forward, backward = jax.random.split(key)
        return (
            draw_negatives(forward, count, known),
            draw_negatives(backward, count, known),
        )

    def sampled_rows(batch: ElmoBatch, key: jax.Array) -> SampledRows:
        drawn = negatives(key)
        words = [batch.targets.ravel(), *(each.words for each in drawn)]
        size = sum(each.size for each in words)
        every = elmo.head_rows(config)
        rows = jnp.arange(every)
        if few_rows and size < every:
            rows = jnp.unique(jnp.concatenate(words), size=size, fill_value=every)
        return SampledRows(("softmax/table", "softmax/bias"), rows, drawn)

    def loss(params, batch: ElmoBatch, carry=None, key=None, sampled_rows=None):
        characters_2BLC, targets_2BL, weights_2BL = (x.swapaxes(0, 1) for x in batch)
        lengths_2B = None if data.carry else (weights_2BL > 0).sum(-1)
        out: Any = module.apply(
            {"params": params},
            characters_2BLC,
            carry if data.carry else None,
            lengths=lengths_2B,
            softmax=False,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
            method="read",
        )
        table, bias = params["softmax"]["table"], params["softmax"]["bias"]
        sums: Sums = {}
        for i, way in enumerate(WAYS):
            x_BLD, weights_BL = out.last[i], weights_2BL[i]
            if sampled_rows is None:
                total, weight, correct = head_cross_entropy(
                    x_BLD, table, targets_2BL[i], weights_BL, bias, classes=known
                )
                sums[f"{way}_loss"] = Mean(total, weight)
                sums[f"{way}_accuracy"] = Mean(correct, weight)
                continue
            # Both targets and sample by their places among the rows at hand.
            drawn = sampled_rows.drawn[i]
            sample = Sample(
                jnp.searchsorted(sampled_rows.rows, drawn.words),
                drawn.drawn,
                log_expected(sampled_rows.rows, drawn.draws, known),
            )
            places_BL = jnp.searchsorted(sampled_rows.rows, targets_2BL[i])
            total, weight, _ = sampled_cross_entropy(
                x_BLD, table, bias, places_BL, weights_BL, sample
            )
            sums[f"{way}_sampled_loss"] = Mean(total, weight)
        return sums, out.state if data.carry else carry

    return Objective(
        "bilm", transform, weights, loss, FIGURES, sampled_rows if count else None
    )
