"""SQuAD files (1.1 and 2.0, and all in their form) → questions; figures of answers.

The rules are those of the official scripts: text is lower-cased, freed of punctuation
and of a, an, the, and cut at white space; EM compares what is left, F1 the words; of
several true answers the best counts. CMRC 2018's: an ideograph is a word, punctuation
goes, and F1 is taken of the longest common run of words.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from jaxlm.text.sources import read_file
from jaxlm.types import UserError

Rules = Literal["squad", "cmrc"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# cmrc2018_evaluate.py's, its two-character ellipsis as the one character that it is.
_CMRC_SIGNS = set("-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")


class Question(NamedTuple):
    """One question of a file."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]  # text, first character; none: unanswerable
    where: str  # "file, question ID"


def read_questions(path: str, *, labelled: bool) -> list[Question]:
    """The questions of a file, in SQuAD's form or CMRC 2018's original one.

    Args:
        path: of the file.
        labelled: whether answers are read; else each question needs an id of its own,
            by which it is answered.

    Raises:
        UserError: it is no file of that form, a question or context is empty, an id is
            there twice, or the answers were taken out of it.
    """
    content = read_file(path)
    try:
        data = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    found = []
    try:
        for context, each in _asked(data):
            found.append(_question(path, context, each, labelled))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not in SQuAD's form (data, paragraphs, context, qas): after "
            f"{len(found)} questions {type(error).__name__} {error}"
        ) from None
    if not found:
        raise UserError(f"{path} has no questions")
    if labelled:
        said = [text for each in found for text, _ in each.answers]
        if said and not any(text.strip() for text in said):
            raise UserError(
                f"{path}: the texts of all its answers are empty, they were taken out "
                "of it; jaxlm predict needs none"
            )
        return found
    check_ids(found)
    return found


def check_ids(questions: Sequence[Question]) -> None:
    """Raise a UserError where an id, by which answers are written, is there twice."""
    first: dict[str, Question] = {}
    for each in questions:
        if first.setdefault(each.id, each) is not each:
            raise UserError(
                f"{each.where}: another question has this id, and answers are written "
                "by id: give each its own"
            )


def _asked(data: Any) -> Iterator[tuple[Any, dict]]:
    """(context, question in SQuAD's form) of a file of either form."""
    if isinstance(data, list):
        for paragraph in data:
            context = paragraph["context_text"]
            for each in paragraph["qas"]:
                names = {"id": each["query_id"], "question": each["query_text"]}
                # Some are numbers: dates that a spreadsheet has rewritten.
                texts = [str(answer) for answer in each["answers"]]
                answers = [
                    {"text": text, "answer_start": _text(context).find(text)}
                    for text in texts
                ]
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
    answers = ()
    if labelled and not each.get("is_impossible", False):
        told = each["answers"]
        answers = tuple((_text(a["text"]), int(a["answer_start"])) for a in told)
    return Question(str(each["id"]), each["question"], context, answers, where)


def _text(value: Any) -> str:
    """null is nothing."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value or ""


def find_answer(context: str, text: str, start: int) -> int | None:
    """Where an answer stands: at its stated place, or else the nearest to it.

    None: nowhere.
    """
    if not text.strip():
        return None
    if context[start : start + len(text)] == text:
        return start
    places = [match.start() for match in re.finditer(re.escape(text), context)]
    return min(places, key=lambda at: abs(at - start)) if places else None


def normal(text: str) -> str:
    """An answer as SQuAD's script compares it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def squad_pair(truth: str, answer: str) -> tuple[float, float]:
    """(EM, F1) of an answer beside one true answer; nothing is "" on either side."""
    want, got = normal(truth).split(), normal(answer).split()
    exact = float(want == got)
    if not want or not got:
        return exact, exact
    same = sum((collections.Counter(want) & collections.Counter(got)).values())
    return exact, 2 * same / (len(want) + len(got))


def cmrc_pair(truth: str, answer: str) -> tuple[float, float]:
    """(EM, F1) by CMRC 2018's rules."""
    want, got = segments(truth), segments(answer)
    exact = float(_unsigned(truth) == _unsigned(answer))
    run = _common_run(want, got)
    return exact, 2 * run / (len(want) + len(got)) if run else 0.0


def segments(text: str) -> list[str]:
    """Ideographs one by one, other text in words; signs of punctuation are dropped."""
    out, other = [], ""
    for char in text.lower().strip():
        if char in _CMRC_SIGNS:
            continue
        if _IDEOGRAPH.match(char):
            out += [*_words(other), char]
            other = ""
        else:
            other += char
    return out + _words(other)


def _words(text: str) -> list[str]:
    # As nltk's word_tokenize cuts what is not Chinese, but for English contractions.
    return re.findall(r"\d[\d.,]*\d|\w+|[^\w\s]", text)


def _unsigned(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _CMRC_SIGNS)


def _common_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest run of elements that both have."""
    best, row = 0, [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else 0
            best = max(best, row[j])
    return best


def scored(question: Question, answer: str, rules: Rules) -> tuple[float, float]:
    """(EM, F1), each the best over the true answers; "" is right of none."""
    pair: Callable[..., tuple[float, float]]
    pair = squad_pair if rules == "squad" else cmrc_pair
    # The official script leaves out true answers of which nothing is left.
    truths = [text for text, _ in question.answers if rules == "cmrc" or normal(text)]
    if not truths:
        right = float(normal(answer) == "")
        return right, right
    found = [pair(truth, answer) for truth in truths]
    return max(e for e, _ in found), max(f for _, f in found)


class Threshold(NamedTuple):
    """The best figure that a bound on the null score reaches, and the bound."""

    figure: float
    bound: float


def best_threshold(
    values: Sequence[float],
    odds: Sequence[float],
    answerable: Sequence[bool],
    empty: Sequence[bool],
) -> Threshold:
    """Where to stop answering: at odds up to `bound` the answer stands, above it is "".

    As `find_best_thresh` of the official script for SQuAD 2.0: from the least odds on,
    one answer more at a time. Its odds are probabilities, so that at 0 nothing is
    answered; these may be negative, and then nothing is below the least of them.
    Answers of equal odds, which no bound tells apart, count together.

    Args:
        values: EM or F1 of each answer, before any threshold.
        odds: null score minus the answer's.
        answerable: whether a question has an answer.
        empty: whether the answer is "" whatever the odds.
    """
    now = best = float(sum(not each for each in answerable))
    bound = min(0.0, math.nextafter(min(odds), -math.inf))
    order = sorted(range(len(values)), key=lambda i: odds[i])
    for i, after in itertools.zip_longest(order, order[1:]):
        now += values[i] if answerable[i] else (0 if empty[i] else -1)
        if now > best and (after is None or odds[after] > odds[i]):
            best, bound = now, odds[i]
    return Threshold(best / len(values), float(bound))
