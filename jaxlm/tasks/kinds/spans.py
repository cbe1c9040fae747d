"""A question and a document → the span of the answer: case 4 of BERT.

    [CLS] question [SEP] window of the document [SEP]         windows move by a stride

A token is told in the window where it sees most on its shorter side ("max context"). A
window without the answer is told to point at [CLS], and a question whose [CLS] scores
above its best answer by more than a threshold gets none. Devlin et al. 2018, sections
4.2 and 4.3; google-research/bert run_squad.py. Of that code two things differ: padding
takes no part in the softmax, so a score does not depend on the bucket, and the 20 best
starts and ends are those of the document alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.families.frame import special_of
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean
from jaxlm.models.layers import NEG_INF, same_segment
from jaxlm.objectives.objective import Sums
from jaxlm.tasks.buckets import NONE
from jaxlm.tasks.offsets import Aligned, align
from jaxlm.tasks.read.squad import (
    Question,
    best_threshold,
    check_ids,
    find_answer,
    read_questions,
    scored,
)
from jaxlm.tasks.rows import TaskRows
from jaxlm.tasks.task import Scores, Task
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_BEST = 20  # starts and ends that are combined; run_squad.py n_best_size


class Window(NamedTuple):
    """What a row holds of a document."""

    question: int
    begin: int  # where in the row the document begins
    start: np.ndarray  # int32 [l]: first character of each of its tokens
    end: np.ndarray  # after the last
    best: np.ndarray  # bool [l]: no other window shows more round this token


class Answer(NamedTuple):
    """The best span of a question, and how much better nothing is."""

    text: str
    odds: float  # null score - the span's; inf where there is no span


def span_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Softmax over places, once for the start and once for the end."""
    task = config.task

    def figures(
        examples: Sequence[Question], rows: TaskRows, scores: Scores
    ) -> dict[str, float]:
        found = answers_of(examples, rows, scores, task)
        return answer_figures(examples, found, task)

    def write(
        path: Path, examples: Sequence[Question], rows: TaskRows, scores: Scores
    ) -> None:
        """The official form: JSON, id → answer, "" for none."""
        check_ids(examples)
        found = answers_of(examples, rows, scores, task)
        content = {
            question.id: told(each, task)
            for question, each in zip(examples, found, strict=True)
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    return Task(
        outputs=2,
        pooling="none",
        read=lambda path, labelled: read_questions(path, labelled=labelled),
        encode=lambda examples, labelled: windows(
            examples, tokenizer, task, config.length, labelled=labelled
        ),
        sums=_span_sums,
        figures=figures,
        write=write,
    )


def windows(
    examples: Sequence[Question],
    tokenizer: Tokenizer,
    task: TaskConfig,
    length: int,
    *,
    labelled: bool,
) -> TaskRows:
    """Rows of all windows of all questions; labels are (start, end), (0, 0) for none.

    An answer that is not at its stated place is looked for; where all answers to a
    question are nowhere in its document, its labels are NONE, so that nothing is learnt
    from it. Both are counted.
    """
    special = special_of(tokenizer)
    contexts: dict[str, Aligned] = {}
    asked = [ids for ids, _ in tokenizer.encode_batch([e.question for e in examples])]
    rows: list[np.ndarray] = []
    second, labels, places = [], [], []
    moved = lost = 0
    for number, (each, question) in enumerate(zip(examples, asked, strict=True)):
        if each.context not in contexts:
            contexts[each.context] = align(tokenizer, each.context)
        document = contexts[each.context]
        question = question[: task.question]
        room = length - len(question) - 3
        if room < 1:
            raise UserError(
                f"{each.where}: no room for the document, --length is {length} and the "
                f"question has {len(question)} tokens: pass a smaller --task.question"
            )
        span, unknown = None, labelled and len(each.answers) > 0
        for text, stated in each.answers if labelled else ():
            at = find_answer(each.context, text, stated)
            span = None if at is None else _tokens_of(document, at, at + len(text))
            if span:
                moved, unknown = moved + (at != stated), False
                break
        lost += unknown
        begin = len(question) + 2
        stretches = _stretches(len(document.ids), room, task.stride)
        seen = _most_context(stretches, len(document.ids))
        for i, (first, last) in enumerate(stretches):
            ids = [special.cls, *question, special.sep, *document.ids[first:last]]
            rows.append(np.array([*ids, special.sep], np.int32))
            second.append(begin)
            inside = span and first <= span[0] and span[1] < last
            label = (NONE, NONE) if unknown else (0, 0)
            if span and inside:
                label = (span[0] - first + begin, span[1] - first + begin)
            labels.append(label)
            cut = slice(first, last)
            starts, ends = document.start[cut], document.end[cut]
            places.append(Window(number, begin, starts, ends, seen[cut] == i))
    notes = []
    if moved:
        notes.append(f"{moved:,} answers are not where they are said to be: found")
    if lost:
        notes.append(f"{lost:,} answers are not in their documents: left out")
    where = np.array(labels, np.int32).reshape(-1, 2)
    begins = np.array(second, np.int32)
    return TaskRows(rows, begins, special.pad, where, tuple(notes), places)


def _stretches(size: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first, last) tokens of each window of a document; one at least."""
    found, first = [], 0
    while True:
        last = min(first + room, size)
        found.append((first, last))
        if last == size:
            return found
        first += min(last - first, stride)


def _most_context(stretches: list[tuple[int, int]], size: int) -> np.ndarray:
    """int [size]: the window in which each token has most on its shorter side.

    run_squad.py `_check_is_max_context`: a hundredth of the window's size decides
    between equals, then the first.
    """
    best, which = np.full(size, -1.0), np.zeros(size, np.int64)
    for i, (first, last) in enumerate(stretches):
        at = np.arange(first, last)
        score = np.minimum(at - first, last - 1 - at) + 0.01 * (last - first)
        better = score > best[first:last]
        best[first:last][better] = score[better]
        which[first:last][better] = i
    return which


def _tokens_of(document: Aligned, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters `start` … `end` - 1."""
    touched = np.flatnonzero((document.end > start) & (document.start < end))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def answers_of(
    examples: Sequence[Question], rows: TaskRows, scores: Scores, task: TaskConfig
) -> list[Answer]:
    """The best answer of each question over all of its windows."""
    best = [-np.inf] * len(examples)
    null = [np.inf] * len(examples)
    text = [""] * len(examples)
    for window, score_L2 in zip(rows.places, scores, strict=True):
        i = window.question
        null[i] = min(null[i], float(score_L2[0].sum()))
        count = len(window.start)
        start_C, end_C = score_L2[window.begin : window.begin + count].T
        start_C = np.where(window.best, start_C, -np.inf)
        found = _best_span(start_C, end_C, task.answer)
        if found and found[0] > best[i]:
            best[i], first, last = found
            text[i] = examples[i].context[window.start[first] : window.end[last]]
    odds = np.array(null) - np.array(best)
    return [Answer(t, float(o)) for t, o in zip(text, odds, strict=True)]


def _best_span(
    start_C: np.ndarray, end_C: np.ndarray, most: int
) -> tuple[float, int, int] | None:
    """(score, first, last) of the best pair among the 20 best starts and ends."""
    starts = np.argsort(-start_C, kind="stable")[:_BEST]
    ends = np.argsort(-end_C, kind="stable")[:_BEST]
    size = ends[None] - starts[:, None] + 1
    total = start_C[starts][:, None] + end_C[ends][None]
    total = np.where((size >= 1) & (size <= most), total, -np.inf)
    at = np.unravel_index(total.argmax(), total.shape) if total.size else None
    if at is None or not np.isfinite(total[at]):
        return None
    return float(total[at]), int(starts[at[0]]), int(ends[at[1]])


def told(answer: Answer, task: TaskConfig) -> str:
    """What is said: "" where nothing scores better by more than the threshold."""
    silent = task.unanswerable and answer.odds > task.null_threshold
    return "" if silent else answer.text


def answer_figures(
    examples: Sequence[Question], answers: Sequence[Answer], task: TaskConfig
) -> dict[str, float]:
    """EM and F1 at the threshold; with unanswerable questions the best ones too."""
    said = [told(each, task) for each in answers]
    pairs = [scored(*each, task.rules) for each in zip(examples, said, strict=True)]
    exact, f1 = np.array(pairs).mean(0)
    out = {"exact": float(exact), "f1": float(f1), "questions": float(len(said))}
    if not task.unanswerable:
        return out
    answerable = [bool(each.answers) for each in examples]
    for name, which in (("answerable", True), ("unanswerable", False)):
        part = [f for (_, f), a in zip(pairs, answerable, strict=True) if a == which]
        if part:
            out[f"{name}_f1"] = float(np.mean(part))
    bare = [
        scored(question, each.text, task.rules)
        for question, each in zip(examples, answers, strict=True)
    ]
    odds, empty = [a.odds for a in answers], [a.text == "" for a in answers]
    for i, name in enumerate(("exact", "f1")):
        values = [pair[i] for pair in bare]
        found = best_threshold(values, odds, answerable, empty)
        out[f"best_{name}"] = found.figure
        out[f"best_{name}_threshold"] = found.bound
    return out


def _span_sums(logits_BL2: Any, batch: Any) -> Sums:
    """Of the start and of the end, each a softmax over the places of its window."""
    if batch.segments is None:
        labels, weights = batch.labels[:, None], batch.weights[:, None]
        seen = batch.mask[:, None]
    else:
        labels, weights = batch.labels, batch.weights
        seen = same_segment(batch.segments)
    loss, right = jnp.zeros(()), weights
    for i in range(2):
        logits = jnp.where(seen, logits_BL2[:, None, :, i], NEG_INF)
        each = cross_entropy(logits, labels[..., i], weights)
        loss = loss + each.loss / 2
        right = right * (logits.argmax(-1) == labels[..., i])
    weight = weights.sum()
    return {
        "task_loss": Mean(loss, weight),
        "task_accuracy": Mean(right.sum(), weight),
    }
