"""A question and a document → the span of the answer: case (c) of BERT's figure 4.

    [CLS] question [SEP] window of the document [SEP]         windows move by a stride

A token is scored in the window that gives it most context on its shorter side. A window
without the answer is trained to point at [CLS]; a question whose [CLS] scores above its
best answer by more than a threshold gets no answer. Devlin et al. 2018, sections 4.2
and 4.3; google-research/bert run_squad.py. Two things differ from that code: padding is
no part of the softmax, so that a score does not depend on the bucket, and the 20 best
starts and ends are chosen in the document alone.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean, Sums
from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.models.layers import same_segment
from jaxlm.tasks.offsets import Aligned, align
from jaxlm.tasks.read.squad import Question, check_ids, find_answer, read_questions
from jaxlm.tasks.rows import NONE, TaskRows
from jaxlm.tasks.scoring import answer_scores, best_threshold
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.types import UserError

_BEST = 20  # starts and ends that are combined; run_squad.py n_best_size


class Window(NamedTuple):
    """The part of a document in one row."""

    question: int
    begin: int  # where in the row the document begins
    start: np.ndarray  # int32 [l]: first character of each document token
    end: np.ndarray  # int32 [l]: after the last character
    best: np.ndarray  # bool [l]: no other window has more context for this token


class Answer(NamedTuple):
    """The best span of a question."""

    text: str
    null_score_diff: float  # null score - the span's; inf without a span


@dataclass(frozen=True)
class Spans(Task):
    """Softmax over the tokens of a window, for the start and for the end."""

    read = staticmethod(read_questions)
    suffix = "json"
    outputs = 2
    by_token = True

    def encode(self, examples: Sequence[Question], labelled: bool) -> TaskRows:
        """Rows of all windows of all questions; labels (start, end), (0, 0) for none.

        An answer that is not at its stated place is searched for. If no answer to a
        question is in its document, the labels are NONE and nothing is learnt. Notes
        count both cases.
        """
        task, frame = self.config.task, self.frame
        questions = frame.texts([each.question for each in examples])
        documents: dict[str, Aligned] = {}
        rows: list[np.ndarray] = []
        labels: list[Any] = []
        windows: list[Window] = []
        moved = lost = 0
        for number, each in enumerate(examples):
            if each.context not in documents:
                documents[each.context] = align(self.tokenizer, each.context)
            document = documents[each.context]
            question = questions[number][: task.question]
            room = self.config.length - len(question) - 3
            if room < 1:
                raise UserError(
                    f"{each.where}: no room for the document, --length is "
                    f"{self.config.length} and the question has {len(question)} "
                    "tokens: pass a smaller --task.question"
                )
            span, elsewhere = _labelled_span(each, document) if labelled else (None, 0)
            unknown = bool(labelled and each.answers and not span)
            moved, lost = moved + elsewhere, lost + unknown
            begin = len(question) + 2
            windows_of = split_document(len(document.ids), room, task.stride)
            best = most_context(windows_of, len(document.ids))
            for i, (first, last) in enumerate(windows_of):
                part = slice(first, last)
                rows.append(frame.row(question, document.ids[part]))
                inside = span and first <= span[0] and span[1] < last
                nowhere = (NONE, NONE) if unknown else (0, 0)
                labels.append(np.array(span) - first + begin if inside else nowhere)
                starts, ends = document.start[part], document.end[part]
                windows.append(Window(number, begin, starts, ends, best[part] == i))
        notes = []
        if moved:
            notes.append(f"{moved:,} answers were found at another place than stated")
        if lost:
            notes.append(f"{lost:,} answers are not in their documents: left out")
        return TaskRows(
            tokens=rows,
            pair_start=np.array([each.begin for each in windows], np.int32),
            pad=frame.pad,
            labels=np.array(labels, np.int32).reshape(-1, 2),
            notes=tuple(notes),
            origins=windows,
        )

    def sums(self, logits: Any, batch: Any) -> Sums:
        """The mean of two cross-entropies, of start and end in each window."""
        if batch.segments is None:
            labels, weights = batch.labels[:, None], batch.weights[:, None]
            visible = batch.mask[:, None]
        else:
            labels, weights = batch.labels, batch.weights
            visible = same_segment(batch.segments)
        loss, correct = jnp.zeros(()), weights
        for i in range(2):
            scores = jnp.where(visible, logits[:, None, :, i], NEG_INF)
            loss += cross_entropy(scores, labels[..., i], weights).loss / 2
            correct = correct * (scores.argmax(-1) == labels[..., i])
        weight = weights.sum()
        accuracy = Mean(correct.sum(), weight)
        return {"task_loss": Mean(loss, weight), "task_accuracy": accuracy}

    def answers(self, file: File, scores: Scores) -> list[Answer]:
        """The best answer to each question over all of its windows."""
        best = np.full(len(file.examples), -np.inf)
        null = np.full(len(file.examples), np.inf)
        text = [""] * len(file.examples)
        for window, score_L2 in zip(file.rows.origins, scores, strict=True):
            i = window.question
            null[i] = min(null[i], float(score_L2[0].sum()))
            count = len(window.start)
            start_C, end_C = score_L2[window.begin : window.begin + count].T
            start_C = np.where(window.best, start_C, -np.inf)
            found = _best_span(start_C, end_C, self.config.task.answer)
            if found and found[0] > best[i]:
                best[i], first, last = found
                text[i] = file.examples[i].context[
                    window.start[first] : window.end[last]
                ]
        return list(map(Answer, text, (null - best).tolist()))

    def _text(self, answer: Answer) -> str:
        """The answer at the threshold."""
        task = self.config.task
        none = task.unanswerable and answer.null_score_diff > task.null_threshold
        return "" if none else answer.text

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """EM and F1 at the threshold; for SQuAD 2.0 also the best ones."""
        answers, rules = self.answers(file, scores), self.config.task.rules

        def compared(texts: Iterable[str]) -> np.ndarray:
            """[n, 2]: EM and F1 of each question."""
            each = zip(file.examples, texts, strict=True)
            return np.array(
                [answer_scores([a for a, _ in q.answers], t, rules) for q, t in each]
            )

        found = compared(map(self._text, answers))
        exact, f1 = found.mean(0).tolist()
        out = {"exact": exact, "f1": f1, "questions": float(len(found))}
        if not self.config.task.unanswerable:
            return out
        answerable = np.array([bool(each.answers) for each in file.examples])
        for name, which in (("answerable", answerable), ("unanswerable", ~answerable)):
            if which.any():
                out[f"{name}_f1"] = float(found[which, 1].mean())
        texts, diffs = zip(*answers, strict=True)
        empty = [text == "" for text in texts]
        for name, values in zip(("exact", "f1"), compared(texts).T, strict=True):
            best = best_threshold(values.tolist(), diffs, answerable.tolist(), empty)
            out[f"best_{name}"] = best.figure
            out[f"best_{name}_threshold"] = best.threshold
        return out

    def output(self, file: File, scores: Scores) -> str:
        """The official form: JSON, id → answer, "" for none."""
        check_ids(file.examples)
        answers = map(self._text, self.answers(file, scores))
        ids = [question.id for question in file.examples]
        content = dict(zip(ids, answers, strict=True))
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _labelled_span(
    question: Question, document: Aligned
) -> tuple[tuple[int, int] | None, bool]:
    """Tokens of the first answer in the document; whether it was at another place."""
    for text, stated in question.answers:
        at = find_answer(question.context, text, stated)
        span = None if at is None else tokens_of(document, at, at + len(text))
        if span:
            return span, at != stated
    return None, False


def tokens_of(document: Aligned, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters `start` … `end` - 1."""
    inside = np.flatnonzero((document.end > start) & (document.start < end))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def split_document(size: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first, after the last) token of each window of a document, at least one."""
    found, first = [], 0
    while True:
        last = min(first + room, size)
        found.append((first, last))
        if last == size:
            return found
        first += min(last - first, stride)


def most_context(windows: list[tuple[int, int]], size: int) -> np.ndarray:
    """int64 [size]: the window with most context on each token's shorter side.

    As run_squad.py `_check_is_max_context`: a hundredth of the window's size breaks
    ties, then the first window wins.
    """
    best, which = np.full(size, -1.0), np.zeros(size, np.int64)
    for i, (first, last) in enumerate(windows):
        at = np.arange(first, last)
        score = np.minimum(at - first, last - 1 - at) + 0.01 * (last - first)
        better = score > best[first:last]
        best[first:last][better] = score[better]
        which[first:last][better] = i
    return which


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
