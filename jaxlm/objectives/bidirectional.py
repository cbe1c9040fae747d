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
from jaxlm.losses import Sample, sampled_cross_entropy
from jaxlm.metrics import BothDirections, Direction, Figure, Mean, Sums
from jaxlm.models.elmo import head_rows
from jaxlm.models.kernels.head import head_cross_entropy
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
        # Each device sorts all words: it is less than to exchange them while sorting.
        targets = mesh.whole(batch.targets)
        drawn = [draw_negatives(each, count, known) for each in jax.random.split(key)]
        words = [targets.ravel(), *(each.words for each in drawn)]
        size = sum(each.size for each in words)
        every = head_rows(config)
        rows = jnp.arange(every)
        # An optimiser that moves rows without a gradient needs all of them.
        if run.optim.keeps_rows and size < every:
            rows = jnp.unique(jnp.concatenate(words), size=size, fill_value=every)
        return SampledRows(("softmax/table", "softmax/bias"), rows, drawn)

    def loss(params, batch: ElmoBatch, carry=None, key=None, sampled_rows=None):
        characters_2BLC, targets_2BL, weights_2BL = (x.swapaxes(0, 1) for x in batch)
        state = carry if data.carry else None
        lengths_2B = None if data.carry else (weights_2BL > 0).sum(-1)
        facts = {"lengths": lengths_2B, "softmax": False, "method": "read"}
        out = apply(module, params, key, characters_2BLC, state, **facts)
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
            # Targets and sample as indices into the gathered rows.
            rows, drawn = sampled_rows.rows, sampled_rows.drawn[i]
            expected = log_expected(rows, drawn.draws, known)
            sample = Sample(jnp.searchsorted(rows, drawn.words), drawn.drawn, expected)
            places_BL = jnp.searchsorted(rows, targets_2BL[i])
            total, weight, _ = sampled_cross_entropy(
                x_BLD, table, bias, places_BL, weights_BL, sample
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
