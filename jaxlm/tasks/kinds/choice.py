"""A text and several ways to go on → the right one: multiple choice.

    a BERT's row       [CLS] text [SEP] pair alternative [SEP]
    a GPT's            start text pair delimiter alternative extract
    of an example      one row for each alternative, each a number by the same head,
                       and a softmax over them

Devlin et al. 2018, section 4.4 (SWAG); Radford et al. 2018, section 3.3 (RACE, Story
Cloze). Where examples have fewer alternatives than others, rows that are not there fill
up; nothing is learnt from them and they never win.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from jaxlm.config import FinetuneConfig
from jaxlm.families import family_of
from jaxlm.tasks.kinds.classes import class_sums, write_answers
from jaxlm.tasks.read.tables import Example, read_table
from jaxlm.tasks.rows import TaskRows, encode_several
from jaxlm.tasks.scoring import class_figures
from jaxlm.tasks.task import Scores, Task
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


def names_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """What a training file calls alternatives: 0, 1, … or A, B, …, as many as the most.

    Raises:
        UserError: it calls them otherwise.
    """
    most = max(len(each.choices) for each in examples)
    counted = tuple(map(str, range(most)))
    letters = tuple(string.ascii_uppercase[:most]), tuple(string.ascii_lowercase[:most])
    names = max(
        (counted, *letters), key=lambda each: sum(e.label in each for e in examples)
    )
    for each in examples:
        if each.label not in names:
            raise UserError(
                f"{each.where}: label {each.label!r} is none of {', '.join(names)}: "
                "pass what the alternatives are called, in order, by --task.labels"
            )
    return names


def choice_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """One number a row, softmax over the rows of an example."""
    task, family = config.task, family_of(config.model)
    frame = family.frame(config.model, tokenizer, task=True)

    def read(path: str, labelled: bool) -> list[Example]:
        examples = read_table(path, task, labelled=labelled)
        for each in examples:
            if len(each.choices) > len(task.labels):
                raise UserError(
                    f"{each.where}: {len(each.choices)} alternatives, in training "
                    f"there are up to {len(task.labels)}: name more by --task.labels"
                )
            mine = task.labels[: len(each.choices)]
            if labelled and each.label not in mine:
                raise UserError(
                    f"{each.where}: label {each.label!r} is none of its alternatives, "
                    f"{', '.join(mine)}"
                )
        return examples

    def texts(example: Example) -> list[Example]:
        pair = [example.pair] if example.pair else []
        before, after = (pair, []) if not family.bidirectional else ([], pair)
        text = " ".join([example.text, *before])
        return [
            example._replace(text=text, pair=" ".join([*after, each]))
            for each in example.choices
        ]

    def encoded(examples: Sequence[Example], labelled: bool) -> TaskRows:
        each = [texts(example) for example in examples]
        rows = encode_several(each, frame, config.length, len(task.labels))
        if not labelled:
            return rows
        labels = [task.labels.index(str(each.label)) for each in examples]
        return rows._replace(labels=np.array(labels, np.int32))

    def figures(
        examples: Sequence[Example], rows: TaskRows, scores: Scores
    ) -> dict[str, float]:
        truth = np.asarray(rows.labels)
        found = class_figures(truth, np.stack(scores), second=False)
        return {name: found[name] for name in ("loss", "accuracy", "majority_accuracy")}

    return Task(
        outputs=1,
        pooling=task.pooling,
        read=read,
        encode=encoded,
        sums=class_sums,
        figures=figures,
        write=lambda path, examples, rows, scores: write_answers(path, task, scores),
        join="choose",
    )
