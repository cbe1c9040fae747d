"""What a family is trained on: rows → batch, batch → sums. One Objective a family.

Families differ in how their rows lie in a corpus and in a few functions; only an ELMo
carries state from batch to batch, and reads a few rows of a large table at a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.config import (
    BertConfig,
    DataConfig,
    ElmoConfig,
    GptConfig,
    Phase,
    RunConfig,
)
from jaxlm.keys import key_for
from jaxlm.losses import (
    Sample,
    cross_entropy,
    each_cross_entropy,
    head_cross_entropy,
    sampled_cross_entropy,
)
from jaxlm.metrics import Mean
from jaxlm.models import elmo
from jaxlm.models.gpt import head_rows
from jaxlm.models.layers import causal_mask
from jaxlm.text.manifest import Manifest
from jaxlm.transforms.mask import (
    choose_each,
    choose_tokens,
    choose_units,
    mask_row,
    target_counts,
    unit_starts,
)
from jaxlm.transforms.negatives import Negatives, draw_negatives, log_expected
from jaxlm.transforms.pairs import pair_row, single_row
from jaxlm.transforms.shift import shift_row
from jaxlm.types import (
    ElmoBatch,
    GptBatch,
    Layout,
    Mark,
    MlmBatch,
    Rows,
    SpecialTokens,
    UserError,
    WordRows,
)

Sums = dict[str, Mean]


class Touched(NamedTuple):
    """The rows of large tables that a step reads; all others have no gradient."""

    tables: tuple[str, ...]  # ends of paths
    rows: jax.Array  # int32 [K], rising; past the tables' end: padding
    drawn: Any  # what else was drawn for this batch


class Objective(NamedTuple):
    """In what families differ: how their rows lie in a corpus, and some functions.

    `transform(rows)` draws a whole global batch. `loss(params, batch, carry, key,
    touched)` gives sums of a micro-batch of it and what goes on to the next batch, with
    dropout where a key is given. `weights(batch)` are the denominators of those sums
    that are minimised, taken over the whole global batch before any forward pass: the
    loss is Σ_k sum_k / weight_k, however the batch is cut. With `touched(batch, key)`
    a step trains those rows only, and `loss` gets them in the tables' place.
    """

    layout: Layout
    transform: Callable[[Any], Any]
    weights: Callable[[Any], dict[str, jax.Array]]
    loss: Callable[..., tuple[Sums, Any]]
    touched: Callable[[Any, jax.Array], Touched] | None = None


def stateless(loss: Callable[..., Sums]) -> Callable[..., tuple[Sums, Any]]:
    """The `loss` of an objective from one of (params, batch, key)."""

    def with_carry(params, batch, carry=(), key=None, touched=None):
        del touched
        return loss(params, batch, key), carry

    return with_carry


def objective_of(
    config: RunConfig,
    module: nn.Module,
    manifest: Manifest,
    phase: Phase,
    *,
    stream: str,
) -> Objective:
    """What a run's family is pretrained on.

    Args:
        config: of the run.
        module: its model.
        manifest: of the corpus.
        phase: shape of the rows.
        stream: name of the phase, as for `data.pipeline.open_source`.

    Raises:
        UserError: the vocabulary lacks a token that the family needs.
    """
    model, data, seed = config.model, config.data, config.seed
    match model:
        case BertConfig():
            return masked_lm(
                module, model, data, phase, manifest.special, seed=seed, stream=stream
            )
        case GptConfig():
            return causal_lm(module, model, data, phase, manifest.end_of_document)
        case ElmoConfig():
            few_rows = config.optim.name == "adagrad"
            return bidirectional_lm(module, model, data, few_rows=few_rows)


def causal_lm(
    module: nn.Module,
    config: GptConfig,
    data: DataConfig,
    phase: Phase,
    end_of_document: int | None,
) -> Objective:
    """GPT's: each next token, with documents end to end in a stream.

    Args:
        module: a decoder.
        config: of the model.
        data: whether documents see each other.
        phase: shape of the rows.
        end_of_document: id of the token after each document.

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
        return batch._replace(weights=batch.weights * valid)

    def weights(batch: GptBatch) -> dict[str, jax.Array]:
        return {"lm_loss": jnp.maximum(jnp.sum(batch.weights), 1.0)}

    def loss(params, batch: GptBatch, key=None) -> Sums:
        positions = mask = None
        if data.packed:
            positions = batch.positions
            mask = causal_mask(phase.length, batch.segments)
        out: Any = module.apply(
            {"params": params},
            batch.tokens,
            positions,
            mask,
            logits=False,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        total, weight, correct = head_cross_entropy(
            out.last,
            out.head,
            batch.targets,
            batch.weights,
            classes=head_rows(config),
        )
        return {"lm_loss": Mean(total, weight), "lm_accuracy": Mean(correct, weight)}

    return Objective("stream", transform, weights, stateless(loss))


def bidirectional_lm(
    module: nn.Module, config: ElmoConfig, data: DataConfig, *, few_rows: bool
) -> Objective:
    """ELMo's: each next word and each one before, half of the mean of either.

    Args:
        module: an Elmo.
        config: of the model.
        data: how many words a target is told from in training.
        few_rows: the optimiser leaves rows without a gradient as they are (Adagrad), so
            that only the rows of the softmax that a sample reads need be updated.
    """
    ways = ("forward", "backward")
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
        return {f"{way}_{kind}": 2 * totals[i] for i, way in enumerate(ways)}

    def negatives(key: jax.Array) -> tuple[Negatives, Negatives]:
        forward, backward = jax.random.split(key)
        return (
            draw_negatives(forward, count, known),
            draw_negatives(backward, count, known),
        )

    def touched(batch: ElmoBatch, key: jax.Array) -> Touched:
        drawn = negatives(key)
        words = [batch.targets.ravel(), *(each.words for each in drawn)]
        size = sum(each.size for each in words)
        every = elmo.head_rows(config)
        rows = jnp.arange(every)
        if few_rows and size < every:
            rows = jnp.unique(jnp.concatenate(words), size=size, fill_value=every)
        return Touched(("softmax/table", "softmax/bias"), rows, drawn)

    def loss(params, batch: ElmoBatch, carry=None, key=None, touched=None):
        characters_2BLC, targets_2BL, weights_2BL = (x.swapaxes(0, 1) for x in batch)
        mask_2BL = None if data.carry else weights_2BL > 0
        out: Any = module.apply(
            {"params": params},
            characters_2BLC,
            None,
            mask_2BL,
            carry if data.carry else None,
            softmax=False,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
            method="read",
        )
        table, bias = params["softmax"]["table"], params["softmax"]["bias"]
        sums: Sums = {}
        for i, way in enumerate(ways):
            x_BLD, weights_BL = out.last[i], weights_2BL[i]
            if touched is None:
                total, weight, correct = head_cross_entropy(
                    x_BLD, table, targets_2BL[i], weights_BL, bias, classes=known
                )
                sums[f"{way}_loss"] = Mean(total, weight)
                sums[f"{way}_accuracy"] = Mean(correct, weight)
                continue
            # Both targets and sample by their places among the rows at hand.
            drawn = touched.drawn[i]
            sample = Sample(
                jnp.searchsorted(touched.rows, drawn.words),
                drawn.drawn,
                log_expected(touched.rows, drawn.draws, known),
            )
            places_BL = jnp.searchsorted(touched.rows, targets_2BL[i])
            total, weight, _ = sampled_cross_entropy(
                x_BLD, table, bias, places_BL, weights_BL, sample
            )
            sums[f"{way}_sampled_loss"] = Mean(total, weight)
        return sums, out.state if data.carry else carry

    return Objective("two_way", transform, weights, loss, touched if count else None)


def masked_lm(
    module: nn.Module,
    config: BertConfig,
    data: DataConfig,
    phase: Phase,
    special: SpecialTokens | None,
    *,
    seed: int,
    stream: str,
) -> Objective:
    """BERT's: masked words and, with `config.nsp`, next sentences, summed unweighted.

    Args:
        module: an encoder with an MLM head.
        config: of the model.
        data: rates and kinds of masking.
        phase: shape of the rows.
        special: ids that rows are put together from.
        seed: the run's.
        stream: name of the phase, as for `data.pipeline.open_source`.

    Raises:
        UserError: the vocabulary has no [CLS], [SEP], [MASK] and [PAD].
    """
    if special is None:
        raise UserError("the corpus's vocabulary has no [CLS] [SEP] [MASK] [PAD]")
    counts = target_counts(phase.length, data.mask_rate, phase.predictions)
    levels = phase.levels or data.levels

    def one(pair_key, mask_key, rows: Rows) -> MlmBatch:
        if config.nsp:
            assert rows.second is not None
            row = pair_row(
                pair_key,
                rows.first,
                rows.second,
                length=phase.length,
                short_rate=data.short_rate,
                special=special,
            )
        else:
            row = single_row(rows.first, length=phase.length, special=special)
        choose, replace = jax.random.split(mask_key)
        budget = jnp.asarray(counts)[row.length]
        level, unit_start = None, jnp.ones(phase.length, bool)
        if levels:
            choose, which = jax.random.split(choose)
            shares = jnp.log(jnp.asarray(levels))
            level = jax.random.categorical(which, shares).astype(jnp.int32)
            unit_start = unit_starts(row.marks, level)
        elif data.whole_words:
            unit_start = (row.marks & Mark.WORD) > 0
        if data.choice == "each":
            chosen = choose_each(
                choose, unit_start, row.candidate, data.mask_rate, phase.predictions
            )
        elif levels or data.whole_words:
            chosen = choose_units(choose, unit_start, row.candidate, budget)
        else:
            chosen = choose_tokens(choose, row.candidate, budget)
        masked = mask_row(
            replace,
            row.tokens,
            chosen,
            predictions=phase.predictions,
            special=special,
            unit_start=unit_start if data.replace == "unit" else None,
        )
        valid = jnp.asarray(rows.valid, jnp.float32)
        return MlmBatch(
            tokens=masked.tokens,
            token_types=row.token_types,
            mask=jnp.arange(phase.length) < row.length,
            positions=masked.positions,
            targets=masked.targets,
            weights=masked.weights * valid,
            nsp_labels=row.nsp_label,
            nsp_weights=valid,
            levels=level,
        )

    def transform(rows: Rows) -> MlmBatch:
        high, low = rows.identity[:, 0], rows.identity[:, 1]
        pair_keys = key_for(seed, f"{stream}/pair", high, low)
        mask_keys = key_for(seed, f"{stream}/mask", high, low)
        return jax.vmap(one)(pair_keys, mask_keys, rows)

    def weights(batch: MlmBatch) -> dict[str, jax.Array]:
        # run_pretraining.py: sum / (weight + 1e-5), which also makes 0 of 0 a 0.
        totals = {"mlm_loss": jnp.sum(batch.weights) + 1e-5}
        if config.nsp:
            totals["nsp_loss"] = jnp.sum(batch.nsp_weights) + 1e-5
        return totals

    def loss(params, batch: MlmBatch, key=None) -> Sums:
        out: Any = module.apply(
            {"params": params},
            batch.tokens,
            batch.token_types,
            batch.mask,
            batch.positions,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        each, correct = each_cross_entropy(out.logits, batch.targets)
        weights = batch.weights
        weight, correct = weights.sum(), correct * weights
        sums = {
            "mlm_loss": Mean((each * weights).sum(), weight),
            "mlm_accuracy": Mean(correct.sum(), weight),
        }
        if batch.levels is not None:
            for level, name in enumerate(("token", "phrase", "entity")):
                rows = (batch.levels == level).astype(jnp.float32)
                of_level = rows[:, None]
                sums[f"mlm_{name}_accuracy"] = Mean(
                    (correct * of_level).sum(), (weights * of_level).sum()
                )
                sums[f"{name}_rows"] = Mean(
                    (rows * batch.nsp_weights).sum(), batch.nsp_weights.sum()
                )
        if config.nsp:
            labels, rows = batch.nsp_labels, batch.nsp_weights
            nsp, count, _ = cross_entropy(out.nsp_logits, labels, rows)
            right = (jnp.argmax(out.nsp_logits, axis=-1) == labels).astype(jnp.float32)
            sums["nsp_loss"] = Mean(nsp, count)
            sums["nsp_accuracy"] = Mean(jnp.sum(right * rows), count)
            for label, name in enumerate(("next", "random")):
                of_label = rows * (labels == label)
                sums[f"nsp_{name}_accuracy"] = Mean(
                    jnp.sum(right * of_label), jnp.sum(of_label)
                )
        return sums

    layout: Layout = "pairs" if config.nsp else "blocks"
    return Objective(layout, transform, weights, stateless(loss))
