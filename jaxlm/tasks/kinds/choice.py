"""A text and several alternatives → the best alternative: multiple choice.

    a BERT's row       [CLS] text [SEP] pair alternative [SEP]
    a GPT's            start text pair delimiter alternative extract

One row for each alternative, scored by one head, and a softmax over the rows of an
example: Devlin et al. 2018, section 4.4 (SWAG); Radford et al. 2018, section 3.3 (RACE,
Story Cloze). Empty rows take the place of missing alternatives; they have no gradient
and are never chosen.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.families import family_of
from jaxlm.tasks.kinds.classes import Classes
from jaxlm.tasks.model import Join
from jaxlm.tasks.read.tables import Example
from jaxlm.tasks.rows import TaskRows, encode_groups
from jaxlm.tasks.scoring import class_figures
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
        names = max(
            (
                tuple(map(str, range(most))),
                tuple(string.ascii_uppercase[:most]),
                tuple(string.ascii_lowercase[:most]),
            ),
            key=lambda names: sum(each.label in names for each in examples),
        )
        for each in examples:
            if each.label not in names:
                raise UserError(
                    f"{each.where}: label {each.label!r} is none of {', '.join(names)}:"
                    " pass what the alternatives are called, in order, by --task.labels"
                )
        return names

    def encode(self, examples: Sequence[Example], labelled: bool) -> TaskRows:
        """One row for each alternative."""
        for each in examples:
            if len(each.choices) > len(self.labels):
                raise UserError(
                    f"{each.where}: {len(each.choices)} alternatives, in training "
                    f"there are up to {len(self.labels)}: name more by --task.labels"
                )
        groups = [self._rows(example) for example in examples]
        length = self.config.length
        rows = encode_groups(groups, self.frame, length, len(self.labels))
        return rows._replace(labels=self.numbers(examples)) if labelled else rows

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

    def numbers(self, examples: Sequence[Example]) -> np.ndarray:
        """Which alternative is right."""
        for each in examples:
            names = self.labels[: len(each.choices)]
            if each.label not in names:
                raise UserError(
                    f"{each.where}: label {each.label!r} is none of its alternatives, "
                    f"{', '.join(names)}"
                )
        return np.array([self.labels.index(str(e.label)) for e in examples], np.int32)

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """Loss and accuracy."""
        truth = np.asarray(file.rows.labels)
        found = class_figures(truth, np.stack(scores), binary=False)
        return {name: found[name] for name in ("loss", "accuracy", "majority_accuracy")}
