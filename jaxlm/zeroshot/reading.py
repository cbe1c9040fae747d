"""Reading comprehension: a document, questions with their answers so far, "A:", greedy.

F1 and EM are SQuAD's; a question with several true answers has the best of them.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.open import Model
from jaxlm.tasks.questions import answer_scores, read_questions
from jaxlm.tasks.values import parse
from jaxlm.text.sources import read_file
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Options,
    Report,
    Variant,
    Variants,
    answered,
    first_line,
    greedy,
    mean_of,
    wrong,
)

VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019, section 3.5: document, history, A:; the rest is ours",
        "{document}\n\n{history}Q: {question}\nA:",
        "Q: {question}\nA: {answer}\n",
        greedy(24, "\n"),
        {"F1": {"GPT-2 1542M, CoQA": 0.55}},
    ),
    Variant(
        "community",
        "lm-evaluation-harness, coqa",
        "{document}\n\n{history}Q: {question}\n\nA:",
        "Q: {question}\n\nA: {answer}\n\n",
        greedy(24, "\nQ:"),
    ),
)


class Asked(NamedTuple):
    """A question on a document, after others."""

    id: str
    document: str
    history: tuple[tuple[str, str], ...]  # questions and answers before
    question: str
    answers: tuple[str, ...]


Questions = Sequence[Asked]


def read(paths: Sequence[str]) -> list[Asked]:
    """The questions of files in SQuAD's or CoQA's form."""
    found: list[Asked] = []
    for path in paths:
        content = read_file(path)
        if '"story"' in content[:100_000]:
            found += _coqa(path, content)
            continue
        if '"context"' not in content[:1_000_000]:
            raise UserError(f"{path}: {wrong('reading', content[:1000])}")
        before: dict[str, list[tuple[str, str]]] = {}
        for each in read_questions(path, labelled=True):
            answers = tuple(dict.fromkeys(text for text, _ in each.answers))
            if not answers:
                continue
            history = before.setdefault(each.context, [])
            asked = each.question.strip()
            found.append(Asked(each.id, each.context, tuple(history), asked, answers))
            history.append((asked, answers[0]))
    return found


def _coqa(path: str, content: str) -> list[Asked]:
    found: list[Asked] = []
    try:
        for item in parse(path, content)["data"]:
            history: list[tuple[str, str]] = []
            others = list(item.get("additional_answers", {}).values())
            turns = zip(item["questions"], item["answers"], strict=True)
            for i, (question, answer) in enumerate(turns):
                every = [answer, *(other[i] for other in others)]
                answers = tuple(dict.fromkeys(each["input_text"] for each in every))
                own = f"{item.get('id', len(found))}.{i + 1}", item["story"]
                asked = question["input_text"]
                found.append(Asked(*own, tuple(history), asked, answers))
                history.append((asked, answer["input_text"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__} {error}"
        raise UserError(f"{path} is not in CoQA's form: {what}") from None
    return found


def run(model: Model, items: Questions, variants: Variants, options: Options) -> Report:
    """F1 and EM of each variant."""
    items = items[: options.limit or None]
    draw = random.Random(0)
    first = [each.document.partition(". ")[0] for each in items]
    word = [draw.choice(each.document.split()) for each in items]
    plain = {"first sentence": first, "a random word": word}
    levels = {name: _scores(items, said)[1].mean() for name, said in plain.items()}
    report = Report()
    for variant in variants:
        fields = []
        for each in items:
            turns = (
                variant.example.format(question=question, answer=answer)
                for question, answer in each.history
            )
            history = {"history": "".join(turns), "question": each.question}
            fields.append({"document": each.document, **history})
        said, note = answered(model, variant, fields, first_line, long="document")
        exact, f1 = _scores(items, said)
        report.figures.append(mean_of(variant, "F1", f1, **levels))
        report.figures.append(mean_of(variant, "EM", exact))
        report.notes.append(f"{variant.name}: {note}")
        report.answers += [
            {"variant": variant.name, "id": item.id, "question": item.question}
            | {"answer": answer, "truth": list(item.answers), "f1": score}
            for item, answer, score in zip(items, said, f1, strict=True)
        ]
    return report


def _scores(items: Questions, said: Sequence[str]) -> np.ndarray:
    """EM and F1 of each answer, [2, items]."""
    pairs = zip(items, said, strict=True)
    return np.array([answer_scores(i.answers, a, "squad") for i, a in pairs]).T
