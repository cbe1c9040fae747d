"""BERT's and ERNIE's objective: masked words and, where asked for, next sentences.

A row is put together (`transforms/pairs.py`; of dialogues, `dialogue.py`), then units
of it are hidden (`transforms/mask.py`); the model tells what they were, and whether B
follows A, or a dialogue is as it was.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxlm.config import BertConfig, MaskedData, Phase
from jaxlm.keys import key_for
from jaxlm.losses import cross_entropy, each_cross_entropy
from jaxlm.metrics import Mean
from jaxlm.objectives.figures import Binary, Figure, Tokens
from jaxlm.objectives.objective import Objective, Sums, given, language_sums, stateless
from jaxlm.transforms.mask import (
    choose_each,
    choose_tokens,
    choose_units,
    mask_row,
    target_counts,
    unit_starts,
)
from jaxlm.transforms.pairs import Row, pair_row, single_row
from jaxlm.types import (
    Layout,
    Mark,
    MlmBatch,
    Rows,
    SpecialTokens,
    UserError,
)


class Assembly(NamedTuple):
    """How rows that will be masked are put together, from a layout of the corpus."""

    layout: Layout
    row: Callable[[jax.Array, Any], Row]  # by the row's own key
    question: Binary | None  # that is asked of a row beside its words
    languages: tuple[str, ...] = ()  # of the corpus, by number: their shares are told
    keyed: bool = False  # batches have each row's key, for a loss that draws


MASKED_WORDS = Tokens(name="mlm", title="MLM")
NEXT_SENTENCE = Binary(name="nsp", answers=("next", "random"))
REAL_DIALOGUE = Binary(name="dlm", answers=("real", "replaced"))


def masked_figures(nsp: bool, dialogues: bool) -> tuple[Figure, ...]:
    """Masked words and, with `nsp`, what is asked of a row."""
    question = REAL_DIALOGUE if dialogues else NEXT_SENTENCE
    return (MASKED_WORDS, question) if nsp else (MASKED_WORDS,)


def masked_lm(
    module: nn.Module,
    config: BertConfig,
    data: MaskedData,
    phase: Phase,
    special: SpecialTokens | None,
    *,
    seed: int,
    stream: str,
    languages: tuple[str, ...] = (),
    keyed: bool = False,
) -> Objective:
    """BERT's: masked words and, with `config.nsp`, next sentences, summed unweighted.

    Args:
        module: an encoder with an MLM head.
        config: of the model.
        data: rates and kinds of masking.
        phase: shape of the rows.
        special: ids that rows are put together from.
        seed: the run's.
        stream: name of the phase, as of a `data.rows.RowSource`.
        languages: of the corpus, by number, whose shares of the rows are told.
        keyed: batches have `row_key`, for a loss that draws per row.

    Raises:
        UserError: the vocabulary has no [CLS], [SEP], [MASK] and [PAD].
    """
    if special is None:
        raise UserError("the corpus's vocabulary has no [CLS] [SEP] [MASK] [PAD]")

    def row(key, rows: Rows) -> Row:
        if not config.nsp:
            return single_row(rows.first, length=phase.length, special=special)
        assert rows.second is not None
        return pair_row(
            key,
            rows.first,
            rows.second,
            length=phase.length,
            short_rate=data.short_rate,
            special=special,
        )

    assembly = Assembly("blocks", row, None, languages, keyed)
    if config.nsp:
        assembly = Assembly("pairs", row, NEXT_SENTENCE, languages, keyed)
    return masked_rows(module, data, phase, special, assembly, (seed, stream))


def masked_rows(
    module: nn.Module,
    data: MaskedData,
    phase: Phase,
    special: SpecialTokens,
    assembly: Assembly,
    name: tuple[int, str],
) -> Objective:
    """Masked words of rows that an assembly makes, and its question, summed unweighted.

    Args:
        module: an encoder with an MLM head, and NSP's for a question.
        data: rates and kinds of masking.
        phase: shape of the rows.
        special: ids of [MASK] and of random replacements.
        assembly: how rows are put together.
        name: of the chance: the run's seed and the stream.
    """
    counts = target_counts(phase.length, data.mask_rate, phase.predictions)
    levels = phase.levels or data.levels
    question = assembly.question
    seed, stream = name

    def one(pair_key, mask_key, rows: Rows) -> MlmBatch:
        row = assembly.row(pair_key, rows)
        choose, replace = jax.random.split(mask_key)
        budget = jnp.asarray(counts)[row.length]
        chosen = _choose(choose, row, budget, data, levels, phase.predictions)
        masked = mask_row(
            replace,
            row.tokens,
            chosen.tokens,
            predictions=phase.predictions,
            special=special,
            unit_start=chosen.unit_start if data.replace == "unit" else None,
        )
        valid = jnp.asarray(rows.valid, jnp.float32)
        return MlmBatch(
            tokens=masked.tokens,
            token_types=row.token_types,
            mask=jnp.arange(phase.length) < row.length,
            predictions=masked.predictions,
            targets=masked.targets,
            weights=masked.weights * valid,
            nsp_labels=row.nsp_label,
            nsp_weights=valid,
            levels=chosen.level,
            languages=given(rows.languages),
            row_key=jnp.asarray(rows.row_key) if assembly.keyed else None,
        )

    def transform(rows: Rows) -> MlmBatch:
        high, low = rows.row_key[:, 0], rows.row_key[:, 1]
        pair_keys = key_for(seed, f"{stream}/pair", high, low)
        mask_keys = key_for(seed, f"{stream}/mask", high, low)
        return jax.vmap(one)(pair_keys, mask_keys, rows)

    def weights(batch: MlmBatch) -> dict[str, jax.Array]:
        # run_pretraining.py: sum / (weight + 1e-5), which also makes 0 of 0 a 0.
        totals = {"mlm_loss": jnp.sum(batch.weights) + 1e-5}
        if question:
            totals[f"{question.name}_loss"] = jnp.sum(batch.nsp_weights) + 1e-5
        return totals

    def loss(params, batch: MlmBatch, key=None) -> Sums:
        out: Any = module.apply(
            {"params": params},
            batch.tokens,
            batch.token_types,
            batch.predictions,
            lengths=batch.mask.sum(-1),
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        sums = word_sums(out.logits, batch)
        sums |= language_sums(batch.languages, batch.nsp_weights, assembly.languages)
        if question:
            labels, rows = batch.nsp_labels, batch.nsp_weights
            sums |= binary_sums(question, out.nsp_logits, labels, rows)
        return sums

    figures = (MASKED_WORDS, question) if question else (MASKED_WORDS,)
    return Objective(assembly.layout, transform, weights, stateless(loss), figures)


class Chosen(NamedTuple):
    """What of a row is hidden."""

    tokens: Bool[Array, "L"]
    unit_start: Bool[Array, "L"]  # where a unit begins; a unit runs to the next start
    level: Int[Array, ""] | None  # of the units, where rows differ in it


def _choose(
    key: jax.Array,
    row: Row,
    budget: jax.Array,
    data: MaskedData,
    levels: tuple[float, ...],
    most: int,
) -> Chosen:
    """Units of a row by the rule that `data` names; `levels`: shares of rows."""
    level, unit_start = None, jnp.ones(row.tokens.shape, bool)
    if levels:
        key, which = jax.random.split(key)
        shares = jnp.log(jnp.asarray(levels))
        level = jax.random.categorical(which, shares).astype(jnp.int32)
        unit_start = unit_starts(row.marks, level)
    elif data.whole_words:
        unit_start = (row.marks & Mark.WORD) > 0
    if data.choice == "each":
        tokens = choose_each(key, unit_start, row.candidate, data.mask_rate, most)
    elif levels or data.whole_words:
        tokens = choose_units(key, unit_start, row.candidate, budget)
    else:
        tokens = choose_tokens(key, row.candidate, budget)
    return Chosen(tokens, unit_start, level)


def word_sums(logits_BPV: jax.Array, batch: MlmBatch) -> Sums:
    """Loss and accuracy of masked words, where levels differ also of each level."""
    each, correct = each_cross_entropy(logits_BPV, batch.targets)
    weights = batch.weights
    weight, correct = weights.sum(), correct * weights
    sums = {
        "mlm_loss": Mean((each * weights).sum(), weight),
        "mlm_accuracy": Mean(correct.sum(), weight),
    }
    if batch.levels is None:
        return sums
    for level, name in enumerate(("token", "phrase", "entity")):
        rows = (batch.levels == level).astype(jnp.float32)
        of_level = rows[:, None]
        sums[f"mlm_{name}_accuracy"] = Mean(
            (correct * of_level).sum(), (weights * of_level).sum()
        )
        sums[f"{name}_rows"] = Mean(
            (rows * batch.nsp_weights).sum(), batch.nsp_weights.sum()
        )
    return sums


def binary_sums(
    figure: Binary, logits: jax.Array, labels: jax.Array, weights: jax.Array
) -> Sums:
    """Loss and accuracy of a choice of two, and the accuracy by the right answer.

    Args:
        figure: what is told of it.
        logits: float32 [..., 2].
        labels: int32 [...], the number of the right answer.
        weights: float32 [...].
    """
    loss, count, _ = cross_entropy(logits, labels, weights)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32) * weights
    sums = {
        f"{figure.name}_loss": Mean(loss, count),
        f"{figure.name}_accuracy": Mean(right.sum(), count),
    }
    for label, answer in enumerate(figure.answers):
        of_label = labels == label
        sums[f"{figure.name}_{answer}_accuracy"] = Mean(
            (right * of_label).sum(), (weights * of_label).sum()
        )
    return sums
