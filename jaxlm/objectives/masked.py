"""BERT's and ERNIE's objective: masked words and a question about the whole row.

A row is put together (`pairs.py`, or `dialogue.py`), then some of its units are hidden
(`mask.py`). The model predicts them and, with `model.nsp`, whether B follows A or
whether the dialogue is unchanged.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxlm.config import MaskedData, Phase, RunConfig
from jaxlm.keys import key_for
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Binary, Figure, Mean, Scores, Sums, Tokens, add
from jaxlm.models.kernels.head import Head, head_loss
from jaxlm.objectives.dialogue import dialogue_row
from jaxlm.objectives.mask import (
    choose_each,
    choose_tokens,
    choose_units,
    mask_row,
    target_counts,
    unit_starts,
)
from jaxlm.objectives.mixed import HIDDEN, NEXT, heads_of, next_tokens
from jaxlm.objectives.objective import (
    STREAM,
    Objective,
    apply,
    group_sums,
    row_shares,
    stateless,
)
from jaxlm.objectives.pairs import Row, packed_row, pair_row, single_row
from jaxlm.text.corpus import Manifest
from jaxlm.types import Layout, Mark, MlmBatch, Rows, UserError

MASKED_WORDS = Tokens(name=HIDDEN, title="MLM")
NEXT_TOKENS = Tokens(name=NEXT, title="LM", what="next tokens")
NEXT_SENTENCE = Binary(name="nsp", answers=("next", "random"))
REAL_DIALOGUE = Binary(name="dlm", answers=("real", "replaced"))
REPLACED = 0.5  # share of dialogues, as of sentence pairs
LEVELS = ("token", "phrase", "entity")


def masked_figures(
    run: RunConfig, question: Binary = NEXT_SENTENCE
) -> tuple[Figure, ...]:
    """The figures of masked words and, with `model.nsp`, of the question on the row; or
    with causal rows, those of next tokens."""
    model: Any = run.model
    if run.has_causal_rows:
        return _shared(run.causal_share())
    question = REAL_DIALOGUE if run.text.dialogues else question
    return (MASKED_WORDS, question) if model.nsp else (MASKED_WORDS,)


def _shared(share: float) -> tuple[Figure, ...]:
    words = dataclasses.replace(MASKED_WORDS, scale=1 - share)
    return words, dataclasses.replace(NEXT_TOKENS, scale=share)


def masked_lm(
    run: RunConfig,
    module: nn.Module,
    manifest: Manifest,
    phase: Phase,
    stream: str,
    *,
    question: Binary = NEXT_SENTENCE,
    pair: Callable[..., Row] = pair_row,
) -> Objective:
    """The objective: the loss of masked words plus that of the question on the row.

    Args:
        stream: names the random draws, as in `data.rows.RowSource`.
        question: what the model predicts of a pair of texts.
        pair: makes the row of a pair, with the right answer.
    """
    layout, assemble = _assembly(run, manifest, phase.length, pair)
    model: Any = run.model
    data: Any = run.data
    figures: Any = masked_figures(run, question)
    if run.has_causal_rows and stream != STREAM:
        figures = [x for x in _shared(run.causal_share(phase)) if x.scale]
    names = [each.name for each in figures]
    questions = [each for each in figures if isinstance(each, Binary)]  # none or one

    def kinds_of(batch: MlmBatch) -> dict[str, MlmBatch]:
        if batch.causal is not None:
            return {NEXT: batch.causal, HIDDEN: batch}
        return {HIDDEN if MASKED_WORDS.name in names else NEXT: batch}

    def weights(batch: MlmBatch) -> dict[str, jax.Array]:
        # run_pretraining.py: sum / (weight + 1e-5), which also makes 0 of 0 a 0.
        kinds = kinds_of(batch).items()
        totals = {f"{name}_loss": jnp.sum(x.weights) + 1e-5 for name, x in kinds}
        for each in questions:
            totals[f"{each.name}_loss"] = jnp.sum(batch.nsp_weights) + 1e-5
        return totals

    def loss(params, batch: MlmBatch, key=None) -> Sums:
        forward, kinds = functools.partial(apply, module, params, key), kinds_of(batch)
        heads, nsp_logits = heads_of(forward, kinds, packed=data.packed)
        shares = (row_sums(manifest.languages, each) for each in kinds.values())
        sums = functools.reduce(add, shares)
        for name, each in kinds.items():
            sums |= word_sums(name, heads[name], each, model.vocab_size)
        aims = batch.nsp_labels, batch.nsp_weights
        for each in questions:
            sums |= binary_sums(each, nsp_logits, *aims)
        return sums

    transform = _masking(run, manifest, phase, stream, assemble)
    return Objective(layout, transform, weights, stateless(loss), figures)


def _assembly(
    run: RunConfig, manifest: Manifest, length: int, pair: Callable[..., Row]
) -> tuple[Layout, Callable[[Any, Any], Row]]:
    """The layout of the corpus, and a function (key, host row) → `Row`."""
    model: Any = run.model
    data: Any = run.data
    if manifest.special is None:
        raise UserError("the corpus's vocabulary has no [CLS] [SEP] [MASK] [PAD]")
    shape: Any = {"length": length, "special": manifest.special}
    if run.text.dialogues:
        if not manifest.recipe.dialogues:
            raise UserError(
                "the corpus is not of dialogues (text.dialogues): prepare it with this "
                'recipe, from .jsonl with "turns"'
            )
        if (types := model.num_token_types) < 2:
            raise UserError(f"model.num_token_types = {types}: a dialogue has 2 roles")
        shape["replaced"] = REPLACED if model.nsp else 0.0
        return "dialogues", functools.partial(dialogue_row, **shape)
    if data.packed:
        return "packed", functools.partial(packed_row, **shape)
    if not model.nsp:
        return "blocks", functools.partial(single_row, **shape)
    return "pairs", functools.partial(pair, **shape, short_rate=data.short_rate)


def _masking(
    run: RunConfig,
    manifest: Manifest,
    phase: Phase,
    stream: str,
    assemble: Callable[[Any, Any], Row],
) -> Callable[[Any], MlmBatch]:
    """A function that makes the batch of host rows; each row has its own keys.

    The first rows are causal, as many as the share of the phase. All rows of an
    evaluation are, beside the same rows with words masked.
    """
    data: Any = run.data
    special: Any = manifest.special
    usual, most = data.mask_rate_end or data.mask_rate, phase.predictions
    counts = target_counts(phase.length, usual, most)

    def one(pair_key, mask_key, rows: Any) -> MlmBatch:
        row = assemble(pair_key, rows)
        choose_key, replace_key = jax.random.split(mask_key)
        rate, budget = usual, jnp.asarray(counts)[row.length]
        if rows.mask_rates is not None:
            rate = rows.mask_rates
            budget = jnp.clip(jnp.round(rate * row.length), 1, most).astype(jnp.int32)
        chosen, level = _choose(choose_key, row, (rate, budget), data, phase)
        masked = mask_row(
            replace_key,
            row.tokens,
            chosen,
            predictions=most,
            special=special,
        )
        weights = masked.weights * jnp.asarray(rows.valid, jnp.float32)
        hidden = masked._replace(weights=weights)._asdict()
        return next_tokens(row, rows)._replace(**hidden, levels=level)

    def follow(pair_key, mask_key, rows: Any) -> MlmBatch:
        del mask_key
        return next_tokens(assemble(pair_key, rows), rows)

    def transform(rows: Rows) -> MlmBatch:
        high, low = rows.row_key[:, 0], rows.row_key[:, 1]
        pair_keys = key_for(rows.seed, f"{stream}/pair", high, low)
        mask_keys = key_for(rows.seed, f"{stream}/mask", high, low)
        drawn = pair_keys, mask_keys, rows
        count = first = round(len(rows.valid) * run.causal_share(phase))
        if run.has_causal_rows and stream == STREAM:
            count, first = len(rows.valid), 0
        if not count:
            return jax.vmap(one)(*drawn)
        causal = jax.vmap(follow)(*jax.tree.map(lambda x: x[:count], drawn))
        if first == len(rows.valid):
            return causal
        masked = jax.vmap(one)(*jax.tree.map(lambda x: x[first:], drawn))
        return masked._replace(causal=causal)

    return transform


def _choose(
    key: jax.Array,
    row: Row,
    share: tuple[Any, jax.Array],
    data: MaskedData,
    phase: Phase,
) -> tuple[Bool[Array, "L"], Int[Array, ""] | None]:
    """(True for tokens to hide, by the rule in `data`; the level of the row's units, or
    None without levels). `share`: the mask rate, and the most tokens to hide by it."""
    rate, budget = share
    level, unit_start = None, jnp.ones(row.tokens.shape, bool)
    levels = phase.levels or data.levels
    if levels:
        key, which = jax.random.split(key)
        shares = jnp.log(jnp.asarray(levels))
        level = jax.random.categorical(which, shares).astype(jnp.int32)
        unit_start = unit_starts(row.marks, level)
    elif data.whole_words:
        unit_start = (row.marks & Mark.WORD) > 0
    if data.choice == "each":
        most = phase.predictions
        chosen = choose_each(key, unit_start, row.candidate, rate, most)
    elif levels or data.whole_words:
        chosen = choose_units(key, unit_start, row.candidate, budget)
    else:
        chosen = choose_tokens(key, row.candidate, budget)
    return chosen, level


def row_sums(languages: Sequence[str], batch: MlmBatch) -> Sums:
    """The share of positions without a token, and each language's share of the rows."""
    rows_B, length = batch.nsp_weights, batch.tokens.shape[1]
    padding = length * rows_B.sum() - (batch.mask.sum(-1) * rows_B).sum()
    shares = row_shares(languages, batch.languages, rows_B)
    return {"padding": Mean(padding, length * rows_B.sum()), **shares}


def word_sums(name: str, head: Head, batch: MlmBatch, classes: int) -> Sums:
    """`NAME_loss` and `NAME_accuracy` of the targets, and with levels that of each."""
    weights = batch.weights
    loss, right = head_loss(head, batch.targets, weights, classes)
    correct = right * weights
    sums = {
        f"{name}_loss": Mean(loss, weights.sum()),
        f"{name}_accuracy": Mean(correct.sum(), weights.sum()),
    }
    if batch.levels is None:
        return sums
    of_words = group_sums(name, LEVELS, batch.levels[:, None], correct, weights)
    return {**sums, **of_words, **row_shares(LEVELS, batch.levels, batch.nsp_weights)}


def binary_sums(
    figure: Binary, logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> Sums:
    """Loss, accuracy and balanced accuracy of a choice of two, and the accuracy for
    each right answer.

    `logits` are float32 [..., 2]; `labels` [...] are the right answers, 0 or 1.
    """
    loss, count, _ = cross_entropy(logits, labels, weights)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32) * weights
    log_odds = logits[..., 1] - logits[..., 0]
    return {
        f"{figure.name}_loss": Mean(loss, count),
        f"{figure.name}_accuracy": Mean(right.sum(), count),
        f"{figure.name}_balanced_accuracy": Scores.of(log_odds, labels, weights),
        **group_sums(figure.name, figure.answers, labels, right, weights),
    }
