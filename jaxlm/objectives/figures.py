"""The figures that an objective declares: loss scales, baselines and how to print them.

    FIGURES = (Tokens("mlm", title="MLM"), Binary("nsp", ("next", "random")))

The sums of an objective are named after its figures: `mlm_loss`, `mlm_accuracy`,
`nsp_next_accuracy` …. The train step, evaluation, log and command line loop over what
is declared and know no figure by its name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxlm.metrics import Mean, balanced_accuracy, majority_accuracy, perplexity

Values = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A loss `NAME_loss`, of which `scale` times the mean is minimised."""

    name: str
    scale: float = 1.0
    what: str = ""  # is predicted, in plural

    @property
    def baselines(self) -> dict[str, str]:
        """Name → name of the figure that is its baseline."""
        return {}

    @property
    def details(self) -> set[str]:
        """Figures that the log keeps and a line for people leaves out."""
        return set()

    def derived(self, values: Values, sums: Mapping[str, Mean]) -> dict[str, float]:
        """More held-out figures, from those there are and from the undivided sums."""
        del values, sums
        return {}

    def report(self, values: Values) -> list[str]:
        """Lines of an evaluation, with baselines beside the figures."""
        del values
        return []


@dataclass(frozen=True, kw_only=True)
class Compared(Figure):
    """A figure NAME with a baseline."""

    baseline: str

    @property
    def baselines(self) -> dict[str, str]:
        """See `Figure`."""
        return {self.name: self.baseline}


@dataclass(frozen=True, kw_only=True)
class Tokens(Figure):
    """Predicted tokens, beside what their frequencies alone would give."""

    title: str = ""
    what: str = "masked words"

    @property
    def baselines(self) -> dict[str, str]:
        """See `Figure`."""
        kinds = "loss", "accuracy"
        return {f"{self.name}_{kind}": f"unigram_{kind}" for kind in kinds}

    @property
    def details(self) -> set[str]:
        """See `Figure`."""
        return {"unigram_loss", "unigram_accuracy", "targets"}

    def derived(self, values: Values, sums: Mapping[str, Mean]) -> dict[str, float]:
        """See `Figure`."""
        return {f"{self.name}_perplexity": perplexity(values[f"{self.name}_loss"])}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        loss, accuracy, words = (
            values[f"{self.name}_{kind}"] for kind in ("loss", "accuracy", "perplexity")
        )
        return [
            f"{self.title + ' loss':<13}  {loss:8.3f}   perplexity {words:,.1f}   "
            f"unigram {values['unigram_loss']:.3f}",
            f"{self.title + ' accuracy':<13}  {accuracy:8.1%}   "
            f"commonest word {values['unigram_accuracy']:.1%}",
        ]


@dataclass(frozen=True, kw_only=True)
class Text(Tokens):
    """All tokens of a text, each from those before it; also by word and by byte."""

    what: str = "tokens"

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        loss, accuracy, words = (
            values[f"{self.name}_{kind}"] for kind in ("loss", "accuracy", "perplexity")
        )
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
    """Words predicted in one direction of reading."""

    def derived(self, values: Values, sums: Mapping[str, Mean]) -> dict[str, float]:
        """See `Figure`."""
        loss = values.get(f"{self.name}_loss")
        return {} if loss is None else {f"{self.name}_perplexity": perplexity(loss)}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        if f"{self.name}_loss" not in values:
            return []
        return [
            f"{self.name:<13}  {values[f'{self.name}_loss']:8.3f}   "
            f"perplexity {values[f'{self.name}_perplexity']:,.2f}   "
            f"accuracy {values[f'{self.name}_accuracy']:.1%}"
        ]


@dataclass(frozen=True, kw_only=True)
class BothDirections(Tokens):
    """The mean loss of two directions, which has no sums of its own."""

    parts: tuple[str, ...]
    what: str = "words, each from before and from behind,"

    def derived(self, values: Values, sums: Mapping[str, Mean]) -> dict[str, float]:
        """See `Figure`."""
        loss = sum(values[f"{part}_loss"] for part in self.parts) / len(self.parts)
        return {f"{self.name}_loss": loss, f"{self.name}_perplexity": perplexity(loss)}

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        return [
            f"mean           {values[f'{self.name}_loss']:8.3f}   "
            f"perplexity {values[f'{self.name}_perplexity']:,.2f}   "
            f"unigram {values['unigram_loss']:.3f}, commonest word "
            f"{values['unigram_accuracy']:.1%}"
        ]


@dataclass(frozen=True, kw_only=True)
class Binary(Figure):
    """A choice of two answers, beside always giving the commoner one."""

    answers: tuple[str, str]

    @property
    def baselines(self) -> dict[str, str]:
        """See `Figure`."""
        return {f"{self.name}_accuracy": f"{self.name}_majority_accuracy"}

    @property
    def details(self) -> set[str]:
        """See `Figure`."""
        return {f"{self.name}_{each}_accuracy" for each in (*self.answers, "majority")}

    def derived(self, values: Values, sums: Mapping[str, Mean]) -> dict[str, float]:
        """See `Figure`."""
        by_answer = [sums[f"{self.name}_{each}_accuracy"] for each in self.answers]
        correct, weight = np.array(by_answer).T
        return {
            f"{self.name}_balanced_accuracy": balanced_accuracy(correct, weight),
            f"{self.name}_majority_accuracy": majority_accuracy(weight),
        }

    def report(self, values: Values) -> list[str]:
        """See `Figure`."""
        title, loss = self.name.upper(), values[f"{self.name}_loss"]
        accuracy, majority, balanced = (
            values[f"{self.name}_{kind}accuracy"]
            for kind in ("", "majority_", "balanced_")
        )
        return [
            f"{title + ' loss':<13}  {loss:8.3f}   coin 0.693",
            f"{title + ' accuracy':<13}  {accuracy:8.1%}   majority {majority:.1%}",
            f"{title + ' balanced':<13}  {balanced:8.1%}   coin 50.0%",
        ]


def scales(declared: Iterable[Figure]) -> dict[str, float]:
    """Name → scale of the losses that may be minimised."""
    return {f"{each.name}_loss": each.scale for each in declared if each.scale}


def held_out(
    declared: Iterable[Figure], values: Values, sums: Mapping[str, Mean]
) -> dict[str, float]:
    """The loss on the scale of training, `values`, and what the figures derive."""
    found = dict(values)
    for each in declared:
        found |= each.derived(values, sums)
    loss = sum(
        s * values[name] for name, s in scales(declared).items() if name in values
    )
    return {"loss": loss, **found}
