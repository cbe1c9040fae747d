"""ELMo's objective: predict each next and each previous word, in two streams of text.

Training may use a softmax over a sample of words instead of the vocabulary, drawn as by
TensorFlow's `log_uniform_candidate_sampler` with `unique=True`, the sampler of
`tf.nn.sampled_softmax_loss`: word k of V, by falling frequency, has probability

    p(k) = log((k + 2) / (k + 1)) / log(V + 1)

and words are drawn until S of them are distinct. After n draws, a word is in the sample
with probability 1 - (1 - p)ⁿ.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm import mesh
from jaxlm.config import Phase, RunConfig
from jaxlm.metrics import BothDirections, Direction, Figure, Mean, Sums
from jaxlm.models.elmo import head_rows
from jaxlm.models.kernels.head import (
    Classes,
    head_cross_entropy,
    sampled_cross_entropy,
)
from jaxlm.objectives.objective import Objective, SampledRows, apply
from jaxlm.text.corpus import Manifest
from jaxlm.types import ElmoBatch, UserError, WordRows

WAYS = ("forward", "backward")


def bidirectional_figures(run: RunConfig) -> tuple[Figure, ...]:
    """Figures of each direction, with the full or a sampled softmax, and of both."""
    names = *WAYS, *(f"{way}_sampled" for way in WAYS)
    both = BothDirections(name="lm", scale=0.0, parts=WAYS)
    return (*(Direction(name=name, scale=0.5) for name in names), both)


def bidirectional_lm(
    run: RunConfig, module: nn.Module, manifest: Manifest, phase: Phase, stream: str
) -> Objective:
    """The objective: predict each next and previous word; the losses are averaged."""
    config: Any = run.model
    data: Any = run.data
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

    def sampled_rows(batch: ElmoBatch, key: jax.Array) -> SampledRows:
        drawn = [draw_negatives(each, count, known) for each in jax.random.split(key)]
        drawn = jax.tree.map(lambda *both: jnp.stack(both), *drawn)
        # Each device sorts all words, which takes less than to exchange them meanwhile.
        targets = mesh.whole(batch.targets)
        words = jnp.concatenate([targets.ravel(), drawn.words.ravel()])
        every = head_rows(config)
        rows = jnp.arange(every)
        # An optimiser that moves rows without a gradient needs all of them.
        if run.optim.keeps_rows and words.size < every:
            rows = jnp.unique(words, size=words.size, fill_value=every)
        return SampledRows(("softmax/table", "softmax/bias"), rows, drawn)

    def loss(params, batch: ElmoBatch, carry=None, key=None, sampled_rows=None):
        characters_2BLC, targets_2BL, weights_2BL = (x.swapaxes(0, 1) for x in batch)
        state = carry if data.carry else None
        lengths_2B = None if data.carry else (weights_2BL > 0).sum(-1)
        facts = {"lengths": lengths_2B, "softmax": False, "method": "read"}
        out = apply(module, params, key, characters_2BLC, state, **facts)
        table, bias = params["softmax"]["table"], params["softmax"]["bias"]
        sums: Sums = {}
        if sampled_rows is None:
            for i, way in enumerate(WAYS):
                x_BLD, targets_BL, weights_BL = (
                    x[i] for x in (out.last, targets_2BL, weights_2BL)
                )
                total, weight, correct = head_cross_entropy(
                    x_BLD, table, targets_BL, weights_BL, bias, classes=known
                )
                sums[f"{way}_loss"] = Mean(total, weight)
                sums[f"{way}_accuracy"] = Mean(correct, weight)
            return sums, out.state if data.carry else carry
        rows, drawn = sampled_rows.rows, sampled_rows.drawn
        if len(rows) < head_rows(config):
            table = mesh.whole(table)
        row_of_V = jnp.zeros(known + 1, jnp.int32)
        row_of_V = row_of_V.at[rows].set(jnp.arange(len(rows)), mode="drop")

        def classes(words):  # one gather for both directions
            expected = jax.vmap(log_expected, (0, 0, None))(words, drawn.draws, known)
            return Classes(
                words, table[row_of_V[words]], bias[row_of_V[words]] - expected
            )

        targets, negatives = classes(targets_2BL), classes(drawn.words)
        unseen = jnp.where(drawn.drawn, negatives.bias, -jnp.inf)
        negatives = negatives._replace(bias=unseen)
        for i, way in enumerate(WAYS):
            right, wrong = (
                Classes(*(x[i] for x in each)) for each in (targets, negatives)
            )
            total, weight, _ = sampled_cross_entropy(
                out.last[i], right, wrong, weights_2BL[i]
            )
            sums[f"{way}_sampled_loss"] = Mean(total, weight)
        return sums, out.state if data.carry else carry

    figures, rows = bidirectional_figures(run), sampled_rows if count else None
    return Objective("bilm", transform, weights, loss, figures, rows)


class Negatives(NamedTuple):
    """A sample of words: the negatives of a sampled softmax."""

    words: Int[Array, "S"]
    drawn: Bool[Array, "S"]  # False: padding, where the draws gave fewer than S words
    draws: Float[Array, ""]  # n, the number of draws until S were distinct


def draw_negatives(key: Array, count: int, vocab_size: int) -> Negatives:
    """A sample of S = `count` distinct words of a vocabulary sorted by frequency."""
    most = enough_draws(count, vocab_size)
    uniform = mesh.whole(jax.random.uniform(key, (most,)))
    drawn = jnp.exp(uniform * math.log(vocab_size + 1)).astype(jnp.int32) - 1
    drawn = jnp.clip(drawn, 0, vocab_size - 1)
    order = jnp.argsort(drawn, stable=True)
    ranked = drawn[order]
    new = jnp.concatenate([jnp.ones(1, bool), ranked[1:] != ranked[:-1]])
    first = jnp.zeros(most, bool).at[order].set(new)
    found = jnp.cumsum(first)
    (at,) = jnp.nonzero(first & (found <= count), size=count, fill_value=most)
    draws = jnp.minimum(jnp.sum(found < count) + 1, most)
    return Negatives(
        words=jnp.where(at < most, drawn[jnp.minimum(at, most - 1)], vocab_size),
        drawn=at < most,
        draws=draws.astype(jnp.float32),
    )


def log_expected(
    words: Int[Array, "*n"], draws: Float[Array, ""], vocab_size: int
) -> Float[Array, "*n"]:
    """The log of each word's probability to be in a sample of `draws` draws."""
    rank = words.astype(jnp.float32)
    p = jnp.log1p(1 / (rank + 1)) / math.log(vocab_size + 1)
    return jnp.log(-jnp.expm1(draws * jnp.log1p(-p)))


@functools.cache
def enough_draws(count: int, vocab_size: int) -> int:
    """A number of draws that yields `count` distinct words, except with p < 10⁻⁸."""
    if not 0 < count <= vocab_size // 2:
        raise UserError(
            f"data.negatives = {count} is not at most half of model.vocab_size = "
            f"{vocab_size}: 0 takes the whole vocabulary"
        )
    rank = np.arange(vocab_size)
    p = np.log1p(1 / (rank + 1.0)) / math.log(vocab_size + 1)
    # The number of distinct words has a variance below its mean, so six deviations are
    # enough. Near the size of the vocabulary a sample may fall short: see `drawn`.
    enough = min(count + 6 * math.sqrt(count), (count + vocab_size) / 2)
    draws = count
    while -np.expm1(draws * np.log1p(-p)).sum() < enough:
        draws = draws * 9 // 8 + 1
    return draws
