"""A text and several alternatives → the best alternative: multiple choice.

    a BERT's row       [CLS] text [SEP] pair alternative [SEP]
    a GPT's            start text pair delimiter alternative extract

One row for each alternative, scored by one head, and a softmax over the rows of an
example: Devlin et al. 2018, section 4.4 (SWAG); Radford et al. 2018, section 3.3 (RACE,
Story Cloze). Empty rows take the place of missing alternatives; they have no gradient
and are never chosen.
"""

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlm.families import family_of
from jaxlm.tasks.kinds.classes import Classes, index_of
from jaxlm.tasks.model import Join
from jaxlm.tasks.read.tables import Example
from jaxlm.tasks.rows import TaskRows, encode_groups
from jaxlm.tasks.task import File, Scores
from jaxlm.types import UserError


@dataclass(frozen=True)
class Choice(Classes):
    """The labels are the names of the alternatives."""

    outputs = 1

    @property
    def join(self) -> Join:
        """The rows of an example compete."""
        return "choose"

    def labels_of(self, examples: Sequence[Example], path: str) -> tuple[str, ...]:
        """0, 1, … or A, B, … or a, b, …, as many as the longest example needs."""
        most = max(len(each.choices) for each in examples)
        series = map(str, range(most)), string.ascii_uppercase, string.ascii_lowercase
        names = max(
            (tuple(itertools.islice(each, most)) for each in series),
            key=lambda names: sum(each.label in names for each in examples),
        )
        hint = "{}: pass what the alternatives are called, in order, by --task.labels"
        for each in examples:
            index_of(each, names, hint)
        return names

    def encode(self, examples: Sequence[Example], labelled: bool) -> TaskRows:
        """One row for each alternative."""
        for each in examples:
            if len(each.choices) > len(self.labels):
                raise UserError(
                    f"{each.where}: {len(each.choices)} alternatives, in training "
                    f"there are up to {len(self.labels)}: name more by --task.labels"
                )
        groups, count = list(map(self._rows, examples)), len(self.labels)
        rows = encode_groups(groups, self.frame, self.config.length, count)
        return self.labelled(rows, examples) if labelled else rows

    def _rows(self, example: Example) -> list[Example]:
        """The pair, a question perhaps, stands with the text for a GPT."""
        pair = [example.pair] if example.pair else []
        bidirectional = family_of(self.config.model).bidirectional
        before, after = ([], pair) if bidirectional else (pair, [])
        text = " ".join([example.text, *before])
        return [
            example._replace(text=text, pair=" ".join([*after, each]))
            for each in example.choices
        ]

    def number(self, example: Example) -> int:
        """Which alternative is right."""
        names = self.labels[: len(example.choices)]
        return index_of(example, names, "its alternatives, {}")

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss and accuracy."""
        found = super().figures(file, scores)
        return {name: found[name] for name in ("loss", "accuracy", "majority_accuracy")}
