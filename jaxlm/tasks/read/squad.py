"""SQuAD files (1.1, 2.0 and the same form) and CMRC 2018's own → questions."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxlm.text.sources import Digests, read_file
from jaxlm.types import UserError


class Question(NamedTuple):
    """One question of a file."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]  # text, first character; none: unanswerable
    where: str  # "file, question ID"


def read_questions(
    path: str, labelled: bool, digests: Digests | None = None
) -> list[Question]:
    """The questions of a file.

    Args:
        labelled: read the answers; otherwise each question needs its own id, because
            answers are written by id.
        digests: see `read_file`.

    Raises:
        UserError: the file has another form, a question or context is empty, an id
            occurs twice, or the answers have been removed.
    """
    try:
        data = json.loads(read_file(path, digests))
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    found = []
    try:
        for context, each in _questions(data):
            found.append(_question(path, context, each, labelled))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not in SQuAD's form (data, paragraphs, context, qas): after "
            f"{len(found)} questions {type(error).__name__} {error}"
        ) from None
    if not found:
        raise UserError(f"{path} has no questions")
    texts = [text for each in found for text, _ in each.answers]
    if texts and not any(text.strip() for text in texts):
        raise UserError(
            f"{path}: the texts of all answers were taken out; jaxlm predict needs none"
        )
    if not labelled:
        check_ids(found)
    return found


def check_ids(questions: Sequence[Question]) -> None:
    """Raise a UserError if two questions have the same id."""
    first: dict[str, Question] = {}
    for each in questions:
        if first.setdefault(each.id, each) is not each:
            raise UserError(
                f"{each.where}: another question has this id, and answers are written "
                "by id: give each its own"
            )


def _questions(data: Any) -> Iterator[tuple[Any, dict]]:
    """(context, question in SQuAD's form) of a file of either form."""
    if isinstance(data, list):
        for paragraph in data:
            context = paragraph["context_text"]
            for each in paragraph["qas"]:
                # Some answers are numbers: dates rewritten by a spreadsheet.
                answers = [
                    {"text": text, "answer_start": _text(context).find(text)}
                    for text in map(str, each["answers"])
                ]
                names = {"id": each["query_id"], "question": each["query_text"]}
                yield context, {**names, "answers": answers}
        return
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for each in paragraph["qas"]:
                yield paragraph["context"], each


def _question(path: str, context: Any, each: dict, labelled: bool) -> Question:
    where = f"{path}, question {each['id']}"
    for name, text in (("question", each["question"]), ("context", context)):
        if not _text(text).strip():
            raise UserError(f"{where}: an empty {name}")
    answers = each["answers"] if labelled and not each.get("is_impossible") else ()
    pairs = tuple((_text(a["text"]), int(a["answer_start"])) for a in answers)
    return Question(str(each["id"]), each["question"], context, pairs, where)


def _text(value: Any) -> str:
    """The value, "" for null."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value or ""


def find_answer(context: str, text: str, start: int) -> int | None:
    """Where an answer begins: at its stated place or else the nearest one.

    None if the context does not contain the answer.
    """
    if not text.strip():
        return None
    if context[start : start + len(text)] == text:
        return start
    places = [match.start() for match in re.finditer(re.escape(text), context)]
    return min(places, key=lambda at: abs(at - start)) if places else None
