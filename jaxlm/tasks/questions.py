"""Files of SQuAD (1.1, 2.0) or CMRC 2018 → questions; answers → EM and F1, computed as
in the official scripts, MLQA's too. The task is in `spans.py`.

SQuAD's own format, and a question a line as the `datasets` library writes it:

    {"data": [{"paragraphs": [{"context": "…", "qas": [{"id": …, "question": …,
        "answers": [{"text": "Paris", "answer_start": 15}]}]}]}]}
    {"id": …, "context": "…", "question": "…",
        "answers": {"text": ["Paris"], "answer_start": [15]}}
"""

import collections
import difflib
import json
import math
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.tasks.values import lines_of, parse, text_of, trimmed
from jaxlm.text.sources import Digests, read_file
from jaxlm.types import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Those of cmrc2018_evaluate.py; its two-character ellipsis is one character here.
_CMRC_PUNCTUATION = str.maketrans(
    "", "", "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』"
)
_IDEOGRAPH = re.compile("([\u4e00-\u9fa5])")
# What mlqa_evaluation_v1.py (facebookresearch/MLQA) takes for articles.
_MLQA_ARTICLES = {
    "ar": re.compile(r"\sال^|ال"),
    "de": re.compile(r"\b(ein|eine[nmsr]?|der|die|das|den|dem|des)\b"),
    "en": _ARTICLES,
    "es": re.compile(r"\b(un|unas?|unos|el|las?|los)\b"),
    "hi": None,
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "zh": None,
}


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

    Without labels, each question needs a unique id, because answers are written by id.
    """
    found: list[Question] = []
    for where, data in _values(path, read_file(path, digests).rstrip()):
        try:
            for context, each in _questions(data):
                here = f"{where}, question {each['id']}"
                found.append(_question(here, context, each, labelled))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            form = "SQuAD's form (data, paragraphs, context, qas)"
            what = f"after {len(found)} questions {type(error).__name__} {error}"
            raise UserError(f"{where} is not in {form}: {what}") from None
    if not found:
        raise UserError(f"{path} has no questions")
    texts = [text for each in found for text, _ in each.answers]
    if texts and not any(text.strip() for text in texts):
        what = "the texts of all answers were taken out"
        raise UserError(f"{path}: {what}; jaxlm predict needs none")
    if not labelled:
        check_ids(found)
    return found


def _values(path: str, content: str) -> Iterator[tuple[str, Any]]:
    """The JSON value of a file or, in JSONL, of each of its lines."""
    lines = lines_of(content)
    try:
        by_line = len(lines) > 1 and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        by_line = False  # the first line is a part of the value
    if not by_line:
        yield path, parse(path, content)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}, line {number}", parse(f"{path}, line {number}", line)


def _question(where: str, context: Any, each: Any, labelled: bool) -> Question:
    """A question in SQuAD's form; answers may also be lists of texts and starts."""
    asked = text_of(where, "question", each["question"])
    context = text_of(where, "context", context)
    for name, text in (("question", asked), ("context", context)):
        if not trimmed(text):
            raise UserError(f"{where}: an empty {name}")
    flag = str(each.get("is_impossible", False)).lower()
    if labelled and flag not in ("true", "false"):
        raise UserError(f"{where}: is_impossible is {flag!r}, neither true nor false")
    told = each["answers"] if labelled and flag == "false" else []
    if isinstance(told, dict):
        told = [
            {"text": text, "answer_start": start}
            for text, start in zip(told["text"], told["answer_start"], strict=True)
        ]
    answers = tuple(
        (text_of(where, "answer", a["text"]), int(str(a["answer_start"]))) for a in told
    )
    return Question(str(each["id"]), asked, context, answers, where)


def check_ids(questions: Sequence[Question]) -> None:
    """Raise a UserError if two questions have the same id."""
    seen: set[str] = set()
    for each in questions:
        if each.id in seen:
            remedy = "answers are written by id: give each its own"
            raise UserError(f"{each.where}: another question has this id; {remedy}")
        seen.add(each.id)


def _questions(data: Any) -> Iterator[tuple[Any, Any]]:
    """(context, question in SQuAD's format) of each question, in any of the formats."""
    flat = isinstance(data, dict) and "data" not in data
    for item in [data] if flat else data["data"] if isinstance(data, dict) else data:
        if "paragraphs" in item:
            for paragraph in item["paragraphs"]:
                yield from ((paragraph["context"], each) for each in paragraph["qas"])
        elif "context_text" in item:
            context = item["context_text"]
            for each in item["qas"]:
                # Some answers are numbers: dates rewritten by a spreadsheet.
                answers = [
                    {"text": text, "answer_start": str(context).find(text)}
                    for text in map(str, each["answers"])
                ]
                names = {"id": each["query_id"], "question": each["query_text"]}
                yield context, {**names, "answers": answers}
        else:
            yield item["context"], item


def find_answer(context: str, text: str, start: int) -> int | None:
    """The position of an answer in the context: `start`, or else the nearest to it.

    None if the context does not contain the answer.
    """
    if not text.strip():
        return None
    if start >= 0 and context[start : start + len(text)] == text:
        return start
    places = [match.start() for match in re.finditer(re.escape(text), context)]
    return min(places, key=lambda at: abs(at - start), default=None)


def answer_scores(
    truths: Sequence[str], answer: str, rules: str
) -> tuple[float, float]:
    """(EM, F1) of an answer, each the maximum over the true answers.

    Without true answers, "" is correct. SQuAD compares lower-case text without
    punctuation and articles, and F1 is over bags of words. In CMRC 2018 each ideograph
    is a word, and F1 is over the longest common run of words. "mlqa_zh" is SQuAD's with
    the punctuation of all scripts, the language's articles, and ideographs as words.
    """
    # The official script leaves out true answers of which nothing is left.
    truths = [truth for truth in truths if rules != "squad" or normal(truth)]
    if not truths:
        correct = float(normal(answer) == "")
        return correct, correct
    if rules == "cmrc":
        pairs = [_cmrc_pair(truth, answer) for truth in truths]
    elif rules == "squad":
        got = normal(answer).split()
        pairs = [_bag_pair(normal(truth).split(), got) for truth in truths]
    else:
        language = rules.removeprefix("mlqa_")
        got = mlqa_words(answer, language)
        pairs = [_bag_pair(mlqa_words(truth, language), got) for truth in truths]
    exact, f1 = zip(*pairs, strict=True)
    return max(exact), max(f1)


def normal(text: str) -> str:
    """An answer as SQuAD's script normalises it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def mlqa_words(text: str, language: str) -> list[str]:
    """The words of an answer as MLQA's script normalises it."""
    kept = (c for c in text.lower() if c not in string.punctuation)
    text = "".join(c for c in kept if unicodedata.category(c)[0] != "P")
    if articles := _MLQA_ARTICLES[language]:
        text = articles.sub(" ", text)
    if language == "zh":
        text = _IDEOGRAPH.sub(r" \1 ", text)
    return text.split()


def _bag_pair(want: list[str], got: list[str]) -> tuple[float, float]:
    exact = float(want == got)
    if not want or not got:
        return exact, exact
    same = (collections.Counter(want) & collections.Counter(got)).total()
    return exact, 2 * same / (len(want) + len(got))


def _cmrc_pair(truth: str, answer: str) -> tuple[float, float]:
    exact = float(_unpunctuated(truth) == _unpunctuated(answer))
    want, got = cmrc_words(truth), cmrc_words(answer)
    run = difflib.SequenceMatcher(None, want, got, False).find_longest_match().size
    return exact, 2 * run / (len(want) + len(got)) if run else 0.0


def _unpunctuated(text: str) -> str:
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def cmrc_words(text: str) -> list[str]:
    """The words of a text, each ideograph a word, without CMRC's punctuation."""
    words: list[str] = []
    for part in _IDEOGRAPH.split(_unpunctuated(text)):
        # As nltk's word_tokenize without its English contractions.
        words += re.findall(r"\d[\d.,]*\d|\w+|[^\w\s]", part)
    return words


def best_threshold(
    values: np.ndarray, diffs: np.ndarray, answerable: np.ndarray, empty: np.ndarray
) -> tuple[float, float]:
    """(the best figure over all thresholds, its threshold).

    An answer whose difference is above the threshold becomes "". As `find_best_thresh`
    of SQuAD 2.0's script, except in two points. The script's differences are
    probabilities, so its lowest threshold is 0; here they may be negative, so the
    lowest threshold is below all of them. Answers with equal differences are counted
    together, because no threshold separates them.

    `values` are EM or F1 of each answer without a threshold; `diffs` are the score of
    no answer minus that of the answer; `empty` has True for answers that are "".
    """
    gains = np.where(answerable, values, np.where(empty, 0.0, -1.0))
    order = np.argsort(diffs, kind="stable")
    thresholds, first = np.unique(diffs[order], return_index=True)
    last = np.append(first[1:], len(order)) - 1
    totals = (~answerable).sum() + np.append(0.0, np.cumsum(gains[order])[last])
    thresholds = np.append(
        min(0.0, math.nextafter(thresholds[0], -math.inf)), thresholds
    )
    best = int(totals.argmax())  # of equal ones the lowest threshold
    return float(totals[best]) / len(values), float(thresholds[best])
