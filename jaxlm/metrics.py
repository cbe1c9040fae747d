"""Sums of a step → figures. An objective declares its figures as `Figure`s.

    a, b       Mean(total, weight) of two micro-batches, devices or steps
    add(a, b)  the Mean of both, exactly what one larger batch would have given
    figures({"mlm_loss": a}) → {"mlm_loss": 2.31}
    held_out((Tokens(name="mlm", title="MLM"),), sums, counts) → with baselines

There are no means of means: every average stays (total, weight) until it is written.
Sums are named after the declared figures: `mlm_loss`, `mlm_accuracy`,
`nsp_next_accuracy` …. The train step, evaluation, log and command line loop over the
declared figures; no figure's name appears in their code.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Counts = Float[Array, "V"] | np.ndarray  # how often each of V classes was the target
Values = Mapping[str, float]


class Mean(NamedTuple):
    """A weighted mean before its division; its `float` is NaN if the weight is 0."""

    total: Float[Array, "..."] | float
    weight: Float[Array, "..."] | float

    def __float__(self) -> float:
        weight = float(self.weight)
        return float(self.total) / weight if weight else math.nan


class Scores(NamedTuple):
    """A histogram of the scores of a choice of two; `float` is the balanced accuracy.

    A score is the log odds of answer 1. Balanced accuracy is the mean of the accuracies
    on rows of either right answer, where an answer is given if its odds are better than
    among all rows. A model that knows only which answer is commoner gets 0.5. It is NaN
    if all rows have the same right answer.
    """

    counts: Float[Array, "2 bins"] | np.ndarray  # right answer × log odds, -8 to 8

    @classmethod
    def of(cls, log_odds: jax.Array, labels: jax.Array, weights: jax.Array) -> "Scores":
        """Those of rows; labels are the right answers, 0 or 1."""
        places = jnp.clip(_bin(log_odds).astype(jnp.int32), 0, _BINS - 1)
        by_answer = jax.nn.one_hot(labels, 2) * weights[..., None]
        return cls(
            jnp.einsum("...a,...b->ab", by_answer, jax.nn.one_hot(places, _BINS))
        )

    def __float__(self) -> float:
        counts = np.asarray(self.counts, float)
        rows = counts.sum(axis=1)
        if not rows.all():
            return math.nan
        odds = np.clip(_bin(math.log(rows[1] / rows[0])), 0, _BINS)
        below = np.insert(counts.cumsum(axis=1), 0, 0, axis=1)  # the edges of the bins
        zero, one = (np.interp(odds, np.arange(_BINS + 1), each) for each in below)
        return float((zero / rows[0] + 1 - one / rows[1]) / 2)


_BINS = 256


def _bin(log_odds: Any) -> Any:
    """The place of log odds among the bins, with its fraction."""
    return (log_odds + 8) * (_BINS / 16)


Sums = dict[str, Any]  # Mean; also Scores, which training leaves out


def add(a: Any, b: Any) -> Any:
    """The leaf-wise sum of two trees."""
    return jax.tree.map(operator.add, a, b)


def figures(sums: Mapping[str, Any]) -> dict[str, float]:
    """Name → the mean as a number."""
    return {name: float(value) for name, value in sums.items()}


def perplexity(loss: float) -> float:
    """e^loss, and infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def majority_accuracy(count_V: Counts) -> float:
    """Accuracy of always answering the commonest target."""
    count = np.asarray(count_V, float)
    return float(count.max() / count.sum()) if count.sum() else math.nan


def unigram_loss(count_V: Counts) -> float:
    """Entropy of the targets in nats: the best loss of a model that ignores context."""
    count = np.asarray(count_V, float)
    if not count.sum():
        return math.nan
    seen = count[count > 0]
    return float(-(seen * (np.log(seen) - math.log(count.sum()))).sum() / count.sum())


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A loss `NAME_loss` with its figures; `scale` times its mean is minimised."""

    name: str
    scale: float = 1.0
    what: str = ""  # is predicted, in plural
    baseline: str = ""  # of a figure NAME that stands beside another one

    @property
    def baselines(self) -> dict[str, str]:
        """Name → name of the figure that is its baseline."""
        return {self.name: self.baseline} if self.baseline else {}

    @property
    def details(self) -> set[str]:
        """Names of figures that are in the log but not in a line on the screen."""
        return set()

    def derived(self, sums: Sums) -> dict[str, float]:
        """More held-out figures, computed from the sums."""
        return {}

    def report(self, values: Values) -> list[str]:
        """Lines of text for an evaluation, with baselines beside the figures."""
        return []

    def _values(self, values: Values, *kinds: str) -> list[float]:
        return [values[f"{self.name}_{kind}"] for kind in kinds]


@dataclass(frozen=True, kw_only=True)
class Tokens(Figure):
    """Predicted tokens, with a unigram model as the baseline."""

    title: str = ""
    what: str = "masked words"

    @property
    def baselines(self) -> dict[str, str]:
        """See `Figure`."""
        return {f"{self.name}_{x}": f"unigram_{x}" for x in ("loss", "accuracy")}

    @property
    def details(self) -> set[str]:
        """See `Figure`."""
        return {"targets", "padding"}

    def derived(self, sums: Sums) -> dict[str, float]:
        """See `Figure`."""
        loss = float(sums[f"{self.name}_loss"])
        return {f"{self.name}_perplexity": perplexity(loss)}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        loss, accuracy, words = self._values(values, "loss", "accuracy", "perplexity")
        return [
            f"{self.title + ' loss':<13}  {loss:8.3f}   perplexity {words:,.1f}   "
            f"unigram {values['unigram_loss']:.3f}",
            f"{self.title + ' accuracy':<13}  {accuracy:8.1%}   "
            f"commonest word {values['unigram_accuracy']:.1%}",
        ]


@dataclass(frozen=True, kw_only=True)
class Text(Tokens):
    """Next-token prediction; the report has figures per word and per byte too."""

    what: str = "tokens"

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        loss, accuracy, words = self._values(values, "loss", "accuracy", "perplexity")
        return [
            f"loss           {loss:8.3f}   perplexity {words:,.2f} a token, "
            f"{values['word_perplexity']:,.2f} a word   "
            f"unigram {values['unigram_loss']:.3f}",
            f"bits per byte  {values['bits_per_byte']:8.4f}   "
            f"{values['words']:,.0f} words, {values['bytes']:,.0f} bytes",
            f"accuracy       {accuracy:8.1%}   "
            f"commonest token {values['unigram_accuracy']:.1%}",
        ]


@dataclass(frozen=True, kw_only=True)
class Direction(Figure):
    """Words predicted in one direction; a sampled loss has no perplexity or report."""

    def derived(self, sums: Sums) -> dict[str, float]:
        """See `Figure`."""
        loss = sums.get(f"{self.name}_loss")
        if loss is None:
            return {}
        return {f"{self.name}_perplexity": perplexity(float(loss))}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        if f"{self.name}_loss" not in values:
            return []
        loss, accuracy, words = self._values(values, "loss", "accuracy", "perplexity")
        return [
            f"{self.name:<13}  {loss:8.3f}   perplexity {words:,.2f}   "
            f"accuracy {accuracy:.1%}"
        ]


@dataclass(frozen=True, kw_only=True)
class BothDirections(Tokens):
    """The mean of the losses of two directions, computed from their sums."""

    parts: tuple[str, ...]
    what: str = "words, each from before and from behind,"

    def derived(self, sums: Sums) -> dict[str, float]:
        """See `Figure`."""
        loss = sum(float(sums[f"{part}_loss"]) for part in self.parts) / len(self.parts)
        return {f"{self.name}_loss": loss, f"{self.name}_perplexity": perplexity(loss)}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        loss, words = self._values(values, "loss", "perplexity")
        return [
            f"mean           {loss:8.3f}   perplexity {words:,.2f}   "
            f"unigram {values['unigram_loss']:.3f}, "
            f"commonest word {values['unigram_accuracy']:.1%}"
        ]


@dataclass(frozen=True, kw_only=True)
class Binary(Figure):
    """A choice of two answers; the baseline always gives the more frequent answer."""

    answers: tuple[str, str]

    @property
    def baselines(self) -> dict[str, str]:
        """See `Figure`."""
        return {f"{self.name}_accuracy": f"{self.name}_majority_accuracy"}

    @property
    def details(self) -> set[str]:
        """See `Figure`."""
        return {f"{self.name}_{answer}_accuracy" for answer in self.answers}

    def derived(self, sums: Sums) -> dict[str, float]:
        """See `Figure`."""
        by_answer = [sums[f"{self.name}_{answer}_accuracy"] for answer in self.answers]
        counts = np.array([each.weight for each in by_answer])
        return {f"{self.name}_majority_accuracy": majority_accuracy(counts)}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        title = self.name.upper()
        loss, *accuracies = self._values(
            values, "loss", "accuracy", "majority_accuracy", "balanced_accuracy"
        )
        accuracy, majority, balanced = accuracies
        shown = "–" if math.isnan(balanced) else f"{balanced:.1%}"
        return [
            f"{title + ' loss':<13}  {loss:8.3f}   coin 0.693",
            f"{title + ' accuracy':<13}  {accuracy:8.1%}   majority {majority:.1%}",
            f"{title + ' balanced':<13}  {shown:>8}   coin 50.0%",
        ]


def scales(declared: Iterable[Figure]) -> dict[str, float]:
    """Name → scale of each loss whose scale is not 0."""
    return {f"{each.name}_loss": each.scale for each in declared if each.scale}


def held_out(
    declared: Iterable[Figure], sums: Sums, count_V: np.ndarray
) -> dict[str, float]:
    """The figures of an evaluation: the training loss, the means of the sums, the
    derived figures and the unigram baselines; `count_V` counts each token as target."""
    found = figures(sums)
    parts = [s * found[name] for name, s in scales(declared).items() if name in found]
    for each in declared:
        found |= each.derived(sums)
    return {
        "loss": sum(parts),
        **found,
        "unigram_loss": unigram_loss(count_V),
        "unigram_accuracy": majority_accuracy(count_V),
        "targets": float(count_V.sum()),
    }
