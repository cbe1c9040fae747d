"""A sentence → a class for each of its words: case 2 of BERT.

    words      John  lives in  Philadelphia
    tokens     [CLS] john lives in phil ##adel ##phia [SEP]
    told at          ^    ^     ^  ^

A word is told at its first token, no other counts (google-research/bert README,
"Tokenization"; Devlin et al. 2018, section 5.3). A sentence that is too long is several
rows, cut between words, so that every word gets an answer. Entities are learnt as BIO
whatever scheme the file has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config import FinetuneConfig
from jaxlm.families import Frame, Tokens, family_of
from jaxlm.losses import cross_entropy
from jaxlm.metrics import Mean
from jaxlm.objectives.objective import Sums
from jaxlm.tasks.buckets import NONE
from jaxlm.tasks.read.conll import Sentence, read_sentences
from jaxlm.tasks.rows import TaskRows
from jaxlm.tasks.scoring import as_bio, entity_figures, parts_of
from jaxlm.tasks.task import Scores, Task
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


class Part(NamedTuple):
    """What a row holds of a sentence: its words from `first` on."""

    sentence: int
    first: int
    at: np.ndarray  # where in the row each word begins


def tags_of(sentences: Sequence[Sentence], path: str, *, bio: bool) -> tuple[str, ...]:
    """The tags to be told apart; O, then B and I of each kind of entity.

    Args:
        sentences: of the training file.
        path: of it.
        bio: they are tags of entities, in any scheme.

    Raises:
        UserError: a tag is none of an entity.
    """
    seen: dict[str, None] = {}
    for each in sentences:
        for i, tag in enumerate(each.tags):
            found = parts_of(tag)
            if bio and found is None:
                raise UserError(
                    f"{each.at(i, path)}: {tag!r} is no tag of an entity (O, B-PER, "
                    "I-PER …): pass --task.metric accuracy if they are others"
                )
            seen[found[1] if bio and found else tag] = None
    if not bio:
        return tuple(sorted(seen))
    kinds = sorted(kind for kind in seen if kind)
    return ("O", *(f"{place}-{kind}" for kind in kinds for place in "BI"))


def tag_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Softmax over tags at each word."""
    task, bio = config.task, config.task.metric == "entity_f1"
    frame = family_of(config.model).frame(config.model, tokenizer, task=True)
    number_of = {tag: i for i, tag in enumerate(task.labels)}

    def read(path: str, labelled: bool) -> list[Sentence]:
        found = read_sentences(path, labelled=labelled)
        for each in found if labelled else ():
            for i, tag in enumerate(each.tags):
                kind = parts_of(tag) if bio else None
                known = f"B-{kind[1]}" if kind and kind[1] else tag
                if known not in number_of:
                    raise UserError(
                        f"{each.at(i, path)}: tag {tag!r} is not in the training file: "
                        f"{', '.join(task.labels[:20])}"
                    )
        if not bio:
            return found
        return [each._replace(tags=tuple(as_bio(each.tags))) for each in found]

    def encoded(examples: Sequence[Sentence], labelled: bool) -> TaskRows:
        rows = _split(examples, frame, config.length)
        labels = []
        for ids, part in zip(rows.tokens, rows.places, strict=True):
            row = np.full(len(ids), NONE, np.int32)
            tags = examples[part.sentence].tags[part.first :]
            if labelled:
                row[part.at] = [number_of[tag] for tag in tags[: len(part.at)]]
            labels.append(row)
        return rows._replace(labels=labels)

    def answers(
        examples: Sequence[Sentence], rows: TaskRows, scores: Scores
    ) -> list[list[str]]:
        out: list[list[str]] = [[] for _ in examples]
        for part, score in zip(rows.places, scores, strict=True):
            best = score[part.at].argmax(1)
            out[part.sentence] += [task.labels[int(i)] for i in best]
        return out

    def figures(
        examples: Sequence[Sentence], rows: TaskRows, scores: Scores
    ) -> dict[str, float]:
        truth = [each.tags for each in examples]
        found = entity_figures(truth, answers(examples, rows, scores))
        return found if bio else {"accuracy": found["accuracy"]}

    def write(
        path: Path, examples: Sequence[Sentence], rows: TaskRows, scores: Scores
    ) -> None:
        """A word and its tag a line, a blank line after each sentence."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for each, tags in zip(
                examples, answers(examples, rows, scores), strict=True
            ):
                pairs = zip(each.words, tags, strict=True)
                file.write("".join(f"{word}\t{tag}\n" for word, tag in pairs) + "\n")

    return Task(
        outputs=len(task.labels),
        pooling="none",
        read=read,
        encode=encoded,
        sums=_tag_sums,
        figures=figures,
        write=write,
    )


def _split(examples: Sequence[Sentence], frame: Frame, length: int) -> TaskRows:
    """Rows of whole words; a word of more tokens than a row has is cut."""
    begin, end = frame.begin, frame.end
    room = length - len(begin) - len(end)
    words = iter(frame.words([word for each in examples for word in each.words]))
    rows: list[Tokens] = []
    parts: list[Part] = []

    def close(sentence: int, first: int, row: list[Tokens]) -> None:
        counts = [len(pieces) for pieces in row]
        at = len(begin) + np.cumsum([0, *counts[:-1]])
        rows.append(np.concatenate([begin, *row, end]))
        parts.append(Part(sentence, first, at[: len(row)]))

    for sentence, each in enumerate(examples):
        row: list[Tokens] = []
        first = used = 0
        for i in range(len(each.words)):
            pieces = next(words)[:room]
            if used + len(pieces) > room:
                close(sentence, first, row)
                row, first, used = [], i, 0
            row.append(pieces)
            used += len(pieces)
        close(sentence, first, row)
    second = np.array([len(row) for row in rows], np.int32)
    more = len(rows) - len(examples)
    notes = (f"{more:,} rows go on with a long sentence",) if more else ()
    return TaskRows(rows, second, frame.pad, [], notes, parts)


def _tag_sums(logits_BLY: Any, batch: Any) -> Sums:
    loss, weight, correct = cross_entropy(logits_BLY, batch.labels, batch.weights)
    return {"task_loss": Mean(loss, weight), "task_accuracy": Mean(correct, weight)}
