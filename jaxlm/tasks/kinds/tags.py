"""A sentence → a class for each of its words: case (d) of BERT's figure 4.

    words      John  lives in  Philadelphia
    tokens     [CLS] john lives in phil ##adel ##phia [SEP]
    scored           ^    ^     ^  ^

A word is scored at its first token (google-research/bert README, "Tokenization"; Devlin
et al. 2018, section 5.3). A long sentence becomes several rows, split between words, so
that every word gets an answer. Entities are learnt as BIO, whatever the file's scheme.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.families.family import Frame, Tokens
from jaxlm.tasks.read.conll import Sentence, read_sentences
from jaxlm.tasks.rows import NONE, TaskRows
from jaxlm.tasks.scoring import as_bio, entity_figures, entity_tag
from jaxlm.tasks.task import File, Scores, Task
from jaxlm.types import UserError


class Part(NamedTuple):
    """The part of a sentence in one row: its words from `first` on."""

    sentence: int
    first: int
    starts: np.ndarray  # where in the row each word begins


@dataclass(frozen=True)
class Tags(Task):
    """Softmax over tags at the first token of each word."""

    read = staticmethod(read_sentences)
    by_token = True

    @property
    def _bio(self) -> bool:
        return self.config.task.metric == "entity_f1"

    def labels_of(self, examples: Sequence[Sentence], path: str) -> tuple[str, ...]:
        """All tags, or O and then B and I of each kind of entity."""
        seen: set[str] = set()
        for each in examples:
            for i, tag in enumerate(each.tags):
                parts = entity_tag(tag)
                if self._bio and parts is None:
                    raise UserError(
                        f"{each.where(i)}: {tag!r} is no tag of an entity (O, B-PER, "
                        "I-PER …): pass --task.metric accuracy for other tags"
                    )
                seen.add(parts[1] if self._bio and parts else tag)
        if not self._bio:
            return tuple(sorted(seen))
        kinds = sorted(kind for kind in seen if kind)
        return ("O", *(f"{place}-{kind}" for kind in kinds for place in "BI"))

    def encode(self, examples: Sequence[Sentence], labelled: bool) -> TaskRows:
        """Rows of whole words; a label for each first token, NONE for the others."""
        rows = _split(examples, self.frame, self.config.length)
        numbers = [self._numbers(each) for each in examples] if labelled else []
        labels = []
        for ids, part in zip(rows.tokens, rows.origins, strict=True):
            row = np.full(len(ids), NONE, np.int32)
            if labelled:
                last = part.first + len(part.starts)
                row[part.starts] = numbers[part.sentence][part.first : last]
            labels.append(row)
        return rows._replace(labels=labels)

    def _numbers(self, sentence: Sentence) -> list[int]:
        number_of = {tag: i for i, tag in enumerate(self.labels)}
        for i, tag in enumerate(sentence.tags):
            parts = entity_tag(tag) if self._bio else None
            known = f"B-{parts[1]}" if parts and parts[1] else tag
            if known not in number_of:
                raise UserError(
                    f"{sentence.where(i)}: tag {tag!r} is not in the training file: "
                    f"{', '.join(self.labels[:20])}"
                )
        return [number_of[tag] for tag in self._tags(sentence)]

    def _tags(self, sentence: Sentence) -> Sequence[str]:
        return as_bio(sentence.tags) if self._bio else sentence.tags

    def _answers(self, file: File, scores: Scores) -> list[list[str]]:
        answers: list[list[str]] = [[] for _ in file.examples]
        for part, score_LY in zip(file.rows.origins, scores, strict=True):
            best = score_LY[part.starts].argmax(1)
            answers[part.sentence] += [self.labels[int(i)] for i in best]
        return answers

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """F1 of entities, or the accuracy of any tags."""
        answers = self._answers(file, scores)
        found = entity_figures([self._tags(each) for each in file.examples], answers)
        return found if self._bio else {"accuracy": found["accuracy"]}

    def output(self, file: File, scores: Scores) -> str:
        """A word and its tag a line, a blank line after each sentence."""
        text = ""
        for each, tags in zip(file.examples, self._answers(file, scores), strict=True):
            pairs = zip(each.words, tags, strict=True)
            text += "".join(f"{word}\t{tag}\n" for word, tag in pairs) + "\n"
        return text


def _split(examples: Sequence[Sentence], frame: Frame, length: int) -> TaskRows:
    """Rows of whole words; a word with more tokens than a row is truncated."""
    begin, end = frame.begin, frame.end
    room = length - len(begin) - len(end)
    words = iter(frame.words([word for each in examples for word in each.words]))
    rows: list[Tokens] = []
    parts: list[Part] = []
    for sentence, each in enumerate(examples):
        first = 0
        tokens = [next(words)[:room] for _ in each.words]
        for chunk in _chunks(tokens, room):
            starts = len(begin) + np.cumsum([0, *(len(word) for word in chunk[:-1])])
            rows.append(np.concatenate([begin, *chunk, end]))
            parts.append(Part(sentence, first, starts))
            first += len(chunk)
    pair_start = np.array([len(row) for row in rows], np.int32)
    more = len(rows) - len(examples)
    notes = (f"{more:,} more rows for long sentences",) if more else ()
    return TaskRows(rows, pair_start, frame.pad, [], notes, parts)


def _chunks(words: Sequence[Tokens], room: int) -> Iterable[list[Tokens]]:
    """As many words as fit, then the next ones."""
    chunk: list[Tokens] = []
    for word in words:
        if sum(map(len, chunk)) + len(word) > room:
            yield chunk
            chunk = []
        chunk.append(word)
    yield chunk
