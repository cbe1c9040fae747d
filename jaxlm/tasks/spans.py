"""A question and a document → the span of the answer: case (c) of BERT's figure 4.

    [CLS] question [SEP] window of the document [SEP]         windows move by a stride

A token is scored in the window that gives it most context on its shorter side. A window
without the answer is trained to point at [CLS]. A question gets no answer if the score
of [CLS] exceeds that of the best answer by more than a threshold. Devlin et al. 2018,
sections 4.2 and 4.3; google-research/bert run_squad.py. Two things differ from that
code: the softmax excludes padding, so that a score does not depend on the bucket, and
the 20 best starts and ends are chosen only among the tokens of the document.

Tokens keep their positions in the text, so an answer is exact to the character:

    text      Zürich's     北京
    tokens    zur ##ich ' s 北 京
    start     0   3     6 7 9 10
    end       3   6     7 8 10 11
"""

import itertools
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean, Sums
from jaxlm.models.kernels.attention import NEG_INF
from jaxlm.models.layers import same_segment
from jaxlm.tasks import questions
from jaxlm.tasks.questions import Question
from jaxlm.tasks.task import NONE, File, Scores, Task, TaskRows
from jaxlm.tasks.values import ZERO_WIDTH
from jaxlm.text.spans.marks import cuts
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError, plural

_BEST = 20  # starts and ends that are combined; run_squad.py n_best_size


class Aligned(NamedTuple):
    """The tokens of a text and the characters of each token, int32 [l] each."""

    ids: np.ndarray
    start: np.ndarray  # first character
    end: np.ndarray  # after the last


class Window(NamedTuple):
    """The part of a document in one row."""

    question: int
    document: Aligned  # its tokens in the window
    best: np.ndarray  # bool [l]: no other window has more context for this token


@dataclass(frozen=True)
class Spans(Task):
    """Question answering: two softmaxes over a window's tokens, for start and end."""

    read = staticmethod(questions.read_questions)
    suffix = "json"
    outputs = 2
    by_token = True

    def encode(self, examples: Sequence[Question], labelled: bool) -> TaskRows:
        """The rows of all windows of all questions, with labels (start, end).

        The labels are (0, 0) in a window without the answer. An answer that is not at
        its stated position is searched for. If a document has none of the answers, the
        labels are NONE, which have no loss. Notes count both cases.
        """
        frame = self.frame
        asked = frame.texts([each.question for each in examples])
        documents: dict[str, Aligned] = {}
        rows, begins, labels, windows = [], [], [], []
        moved = lost = 0
        for number, (each, question) in enumerate(zip(examples, asked, strict=True)):
            if each.context not in documents:
                documents[each.context] = align(self.tokenizer, each.context)
            document = documents[each.context]
            question = question[: self.config.task.question]
            begin = len(question) + 2
            room = self.config.length - begin - 1
            if room < 1:
                this = f"{each.where}: no room for the document"
                why = f"--length {self.config.length}, a question of {len(question)}"
                remedy = "pass a smaller --task.question"
                raise UserError(f"{this}: {why} tokens: {remedy}")
            span, elsewhere = _labelled_span(each, document) if labelled else (None, 0)
            unknown = bool(labelled and each.answers and not span)
            moved, lost = moved + elsewhere, lost + unknown
            size = len(document.ids)
            bounds = split_document(size, room, self.config.task.stride)
            best = most_context(bounds, size)
            for i, (first, last) in enumerate(bounds):
                part = Aligned(*(array[first:last] for array in document))
                rows.append(frame.row(question, part.ids))
                windows.append(Window(number, part, best[first:last] == i))
                begins.append(begin)
                inside = span and first <= span[0] and span[1] < last
                nowhere = (NONE, NONE) if unknown else (0, 0)
                labels.append(np.array(span) - first + begin if inside else nowhere)
        unasked = labelled and not self.config.task.unanswerable
        unasked = unasked and sum(not each.answers for each in examples)
        notes = (
            (unasked, "question", "without an answer: see --task.metric best_f1"),
            (moved, "answer", "found at another place than stated"),
            (lost, "answer", "left out: not in the document"),
        )
        return TaskRows(
            tokens=rows,
            pair_start=np.array(begins, np.int32),
            pad=frame.pad,
            labels=np.array(labels, np.int32).reshape(-1, 2),
            notes=tuple(f"{plural(n, noun)} {what}" for n, noun, what in notes if n),
            origins=windows,
        )

    def texts(self, example: Question) -> Sequence[str]:
        """The question and the document."""
        return example.question, example.context

    def sums(self, logits: Any, batch: Any) -> Sums:
        """The mean of two cross-entropies: of the start and of the end in a window."""
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

    def answers(self, file: File, scores: Scores) -> tuple[list[str], np.ndarray]:
        """(the best answer to each question over all its windows, its difference: the
        score of no answer minus its score, or inf if there is no answer)."""
        best = np.full(len(file.examples), -np.inf)
        null = np.full(len(file.examples), np.inf)
        texts = [""] * len(file.examples)
        rows = zip(file.rows.origins, file.rows.pair_start, scores, strict=True)
        for (i, part, has_best), begin, score_L2 in rows:
            null[i] = min(null[i], float(score_L2[0].sum()))
            start_C, end_C = score_L2[begin : begin + len(part.ids)].T
            start_C = np.where(has_best, start_C, -np.inf)
            score, first, last = _best_span(start_C, end_C, self.config.task.answer)
            if score > best[i]:
                best[i] = score
                text = file.examples[i].context[part.start[first] : part.end[last]]
                texts[i] = text.strip(ZERO_WIDTH)
        return texts, null - best

    def _at_threshold(self, texts: list[str], diffs: np.ndarray) -> list[str]:
        task = self.config.task
        silent = diffs > (task.null_threshold if task.unanswerable else np.inf)
        return np.where(silent, "", np.array(texts, object)).tolist()

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """EM and F1 at the threshold; for SQuAD 2.0, also at the best threshold."""
        texts, diffs = self.answers(file, scores)
        truths = [[text for text, _ in each.answers] for each in file.examples]

        def compared(texts: list[str]) -> np.ndarray:
            """[2, n]: EM and F1 of each question."""
            pairs, rules = zip(truths, texts, strict=True), self.config.task.rules
            return np.array([questions.answer_scores(*pair, rules) for pair in pairs]).T

        exact, f1 = compared(self._at_threshold(texts, diffs))
        out = {"exact": exact.mean(), "f1": f1.mean(), "questions": len(truths)}
        if self.config.task.unanswerable:
            answerable = np.array([bool(each) for each in truths])
            for name, which in (("", answerable), ("un", ~answerable)):
                if which.any():
                    out[f"{name}answerable_f1"] = f1[which].mean()
            empty = np.array([text == "" for text in texts])
            for name, values in zip(("exact", "f1"), compared(texts), strict=True):
                best = questions.best_threshold(values, diffs, answerable, empty)
                out[f"best_{name}"], out[f"best_{name}_threshold"] = best
        return {name: float(value) for name, value in out.items()}

    def output(self, file: File, scores: Scores) -> str:
        """JSON in the official format: id → answer, or "" for no answer."""
        questions.check_ids(file.examples)
        texts = self._at_threshold(*self.answers(file, scores))
        ids = [question.id for question in file.examples]
        content = dict(zip(ids, texts, strict=True))
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _labelled_span(
    question: Question, document: Aligned
) -> tuple[tuple[int, int] | None, bool]:
    """((first, last) token of the first answer found, whether it was misplaced)."""
    for text, stated in question.answers:
        at = questions.find_answer(question.context, text, stated)
        span = None if at is None else tokens_of(document, at, at + len(text))
        if span:
            return span, at != stated
    return None, False


def tokens_of(document: Aligned, start: int, end: int) -> tuple[int, int] | None:
    """(first, last) token of the characters `start` … `end` - 1; None if no token."""
    inside = np.flatnonzero((document.end > start) & (document.start < end))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def split_document(size: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, end) of each window of a document; there is at least one window."""
    found = [(0, min(room, size))]
    while found[-1][1] < size:
        first = found[-1][0] + min(room, stride)
        found.append((first, min(first + room, size)))
    return found


def most_context(windows: list[tuple[int, int]], size: int) -> np.ndarray:
    """int64 [size]: for each token, the window with most context on its shorter side.

    As run_squad.py `_check_is_max_context`: a hundredth of the window's length is added
    to the context, and the first of equal windows wins.
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
) -> tuple[float, int, int]:
    """(score, first, last) of the best pair among the 20 best starts and ends; without
    a pair, the score is -inf."""
    starts = np.argsort(-start_C, kind="stable")[:_BEST]
    ends = np.argsort(-end_C, kind="stable")[:_BEST]
    size = ends[None] - starts[:, None] + 1
    total = start_C[starts][:, None] + end_C[ends][None]
    total = np.where((size >= 1) & (size <= most), total, -np.inf)
    if not total.size:
        return -np.inf, 0, 0
    first, last = np.unravel_index(total.argmax(), total.shape)
    return float(total[first, last]), int(starts[first]), int(ends[last])


def align(tokenizer: Tokenizer, text: str) -> Aligned:
    """The tokens of a text and their positions in it.

    The positions come from the `tokenizers` library. For a tokenizer that the library
    lacks, a token has the position of its whole word, and ideographs are words.
    """
    library = tokenizer.library()
    if library:
        found = library.encode(text, add_special_tokens=False)
        ids, spans = np.array(found.ids, np.int32), found.offsets
    else:
        bounds = itertools.pairwise(np.flatnonzero(cuts(text)).tolist())
        words = [(a, b) for a, b in bounds if text[a:b].strip()]
        ids, _, counts, _ = tokenizer.encode_flat([text[a:b] for a, b in words])
        counted = zip(words, counts.tolist(), strict=True)
        spans = [word for word, count in counted for _ in range(count)]
    starts, ends = [start for start, _ in spans], []
    for (_, end), following in zip(spans, [*starts[1:], len(text)], strict=True):
        # A stripped accent belongs to the letter before it.
        while end < following and unicodedata.category(text[end]) == "Mn":
            end += 1
        ends.append(end)
    return Aligned(ids, np.array(starts, np.int32), np.array(ends, np.int32))
