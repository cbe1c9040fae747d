"""Reading comprehension: a document, questions with their answers so far, "A:", greedy.

F1 and EM are SQuAD's; a question with several true answers has the best of them.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxlm.tasks.questions import answer_scores, read_questions
from jaxlm.tasks.values import parse
from jaxlm.text.sources import read_file
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Options,
    Report,
    Variant,
    continued,
    greedy,
    mean_of,
    room_of,
    shortened,
    wrong,
)

if TYPE_CHECKING:
    from jaxlm.open import Model

NEEDS = "generate"
VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019, section 3.5: document, history, A:; the rest is ours",
        "{document}\n\n{history}Q: {question}\nA:",
        greedy(24, "\n"),
        {
            "turn": "Q: {question}\nA: {answer}\n",
            "published": {"GPT-2 1542M, CoQA": 0.55},
        },
    ),
    Variant(
        "community",
        "lm-evaluation-harness, coqa",
        "{document}\n\n{history}Q: {question}\n\nA:",
        greedy(24, "\nQ:"),
        {"turn": "Q: {question}\n\nA: {answer}\n\n", "published": {}},
    ),
)


class Asked(NamedTuple):
    """A question on a document, after others."""

    id: str
    document: str
    history: tuple[tuple[str, str], ...]  # questions and answers before
    question: str
    answers: tuple[str, ...]


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
    if not found:
        raise UserError(f"{', '.join(paths)}: no question with an answer")
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


def run(
    model: "Model",
    items: Sequence[Asked],
    variants: Sequence[Variant],
    options: Options,
) -> Report:
    """F1 and EM of each variant."""
    items = items[: options.limit or None]
    draw = random.Random(0)
    plain = {
        "first sentence": [each.document.partition(". ")[0] for each in items],
        "a random word": [draw.choice(each.document.split()) for each in items],
    }
    beside = {
        name: mean_of(
            "", "", [_score(i, a)[1] for i, a in zip(items, said, strict=True)]
        )
        for name, said in plain.items()
    }
    levels = {name: each.value for name, each in beside.items()}
    figures, answers, notes = [], [], []
    for variant in variants:
        room = room_of(model, variant.sampling)
        turn = variant.facts["turn"]
        prompts, cut = [], 0
        for each in items:
            told = (turn.format(question=q, answer=a) for q, a in each.history)
            fields = {"document": each.document, "history": "".join(told)}
            fields |= {"question": each.question}
            prompt, short = shortened(model, variant.template, fields, "document", room)
            prompts.append(prompt)
            cut += short
        said = continued(model, prompts, variant.sampling)
        said = [each.strip().partition("\n")[0] for each in said]
        scores = [_score(i, a) for i, a in zip(items, said, strict=True)]
        exact, f1 = zip(*scores, strict=True)
        known: dict[str, Any] = variant.facts["published"]
        figures.append(mean_of(variant.name, "F1", f1, **levels, **known))
        figures.append(mean_of(variant.name, "EM", exact))
        notes.append(
            f"{variant.name}: {cut:,} of {len(items):,} documents were cut at their "
            f"end to fit {room:,} tokens"
        )
        answers += [
            {"variant": variant.name, "id": i.id, "question": i.question, "answer": a}
            | {"truth": list(i.answers), "f1": s[1]}
            for i, a, s in zip(items, said, scores, strict=True)
        ]
    return Report(figures, answers, notes)


def _score(item: Asked, answer: str) -> tuple[float, float]:
    return answer_scores(item.answers, answer, "squad")
