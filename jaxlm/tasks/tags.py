"""A sentence → a class for each of its words: case (d) of BERT's figure 4.

    words      John  lives in  Philadelphia
    tokens     [CLS] john lives in phil ##adel ##phia [SEP]
    scored           ^    ^     ^  ^

A word is scored at its first token (google-research/bert README, "Tokenization"; Devlin
et al. 2018, section 5.3). A long sentence becomes several rows, split between words, so
that every word gets an answer. Entities are learnt as BIO, whatever the file's scheme:

    EU    rejects  German  call        BIO     B-ORG O B-MISC O
    ORG            MISC                BIOES   S-ORG O S-MISC O     (BMES, BILOU too)

A file has one word a line; or two files are parallel; or a file is in ERNIE's format:

    EU B-ORG           train/seq.in    show flights          text_a<TAB>label
    rejects O          train/seq.out   O    O                海\\x02钓<TAB>O\\x02O

In CoNLL-U, of Universal Dependencies, the tag of a word is its part of speech, UPOS:

    1<TAB>From<TAB>from<TAB>ADP<TAB>IN …
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.families.family import Frame, Tokens
from jaxlm.files import place
from jaxlm.metrics import majority_accuracy
from jaxlm.tasks.tables import is_name
from jaxlm.tasks.task import NONE, File, Scores, Task, TaskRows
from jaxlm.tasks.values import check_distinct, lines_of, trimmed
from jaxlm.text.sources import Digests, read_file
from jaxlm.text.spans.annotated import columns_of, entities, entity_tag
from jaxlm.types import UserError, plural

_COUNTED = re.compile(r"[01]([-.]\d+)? [12]([-.]\d+)?")  # CoNLL-U's first words
_CONLLU = re.compile(r"[01]([-.]\d+)?(\t[^\t]*){9}")  # a first line of 10 columns
_SEPARATOR = "\x02"  # between words in ERNIE's form


class Sentence(NamedTuple):
    """A sentence: words with their tags, or without tags if those are not read."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    path: str
    line: int  # of the first word
    step: int  # lines from word to word: 1 in a column, 0 in a row

    def where(self, word: int = 0) -> str:
        """The place of a word, "file, line 7", for messages."""
        return f"{self.path}, line {self.line + word * self.step}"


def read_sentences(
    path: str, labelled: bool, digests: Digests | None = None
) -> list[Sentence]:
    """The sentences of a file, or of a directory with `seq.in` and `seq.out`.

    In a CoNLL file, the first column is the word, and the last column is the tag.
    In a CoNLL-U file, they are the second and the fourth.
    """
    if place(path).is_dir():
        found = _two_files(path, labelled, digests)
    else:
        lines = lines_of(read_file(path, digests))
        if lines[0].startswith('{"'):
            raise UserError(f"{path} is JSON: tags stand in columns, a word a line")
        joined = any(_SEPARATOR in line for line in lines[:2])
        ernie = joined or lines[0].split("\t")[:1] == ["text_a"]
        begin = next((line for line in lines if line.strip() and line[0] != "#"), "")
        conllu = bool(_CONLLU.fullmatch(begin))
        if ernie and not conllu:
            found = _ernie(path, lines, labelled)
        else:
            found = _columns(path, lines, labelled, conllu)
    sentences = [each._replace(tags=tuple(map(trimmed, each.tags))) for each in found]
    for each in sentences:
        if not each.words:
            raise UserError(f"{each.where()}: an empty sentence")
        if labelled and len(each.words) != len(each.tags):
            this = f"{len(each.words)} words and {len(each.tags)} tags"
            raise UserError(f"{each.where()}: {this}")
        for name, cells in (("word", each.words), ("tag", each.tags)):
            if "" in cells:
                raise UserError(f"{each.where(cells.index(''))}: an empty {name}")
    if not sentences:
        raise UserError(f"{path} has no sentences")
    if {word for each in sentences for word in each.words} == {"_"}:
        raise UserError(f"{path}: its words were taken out, each is '_'")
    begins = [" ".join(each.words[:2]) for each in sentences if len(each.words) > 1]
    if begins and all(map(_COUNTED.fullmatch, begins)):
        this = f"{path}: its first column counts the words, as in CoNLL-U"
        raise UserError(f"{this}: leave the word and its tag alone, cut -f2,4")
    return sentences


def _columns(
    path: str, lines: list[str], labelled: bool, conllu: bool
) -> Iterator[Sentence]:
    word, tag, width = (1, 3, 10) if conllu else (0, -1, 0)
    rows: list[tuple[int, str, str]] = []
    for number, line in enumerate([*lines, ""], start=1):
        where = f"{path}, line {number}"
        if conllu and line.startswith("#"):
            continue
        cells = line.split("\t") * bool(line.strip()) if conllu else columns_of(line)
        if not cells or cells[0] == "-DOCSTART-":
            if rows:
                numbers, words, tags = zip(*rows, strict=True)
                tags = tags if labelled else ()
                yield Sentence(words, tags, path, numbers[0], int(not conllu))
            rows = []
            continue
        if labelled and len(cells) < 2:
            raise UserError(f"{where}: {cells[0]!r} has no tag")
        if not width and len(cells) > 1 and all(map(is_name, cells)):
            raise UserError(f"{where} looks like a header: remove it")
        width = width or len(cells)
        if len(cells) != width:
            wanted = f"{'CoNLL-U' if conllu else 'the first line'} has {width}"
            raise UserError(f"{where}: {len(cells)} columns, {wanted}")
        # No tokens of several words, 8-9, and no words that are not written, 8.1.
        if not conllu or cells[0].isdecimal():
            rows.append((number, cells[word], cells[tag]))


def _two_files(
    path: str, labelled: bool, digests: Digests | None
) -> Iterator[Sentence]:
    names = [f"{path}/seq.in", *[f"{path}/seq.out"] * labelled]
    files = [lines_of(read_file(name, digests).rstrip(" \t\r\n")) for name in names]
    rows, tags = files if labelled else (files[0], [""] * len(files[0]))
    if len(rows) != len(tags):
        raise UserError(f"{names[0]} has {len(rows)} lines, seq.out {len(tags)}")
    for number, both in enumerate(zip(rows, tags, strict=True), start=1):
        words, its_tags = (tuple(re.findall(r"[^ \t]+", line)) for line in both)
        yield Sentence(words, its_tags, names[0], number, 0)


def _ernie(path: str, lines: list[str], labelled: bool) -> Iterator[Sentence]:
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and cells[0] == "text_a"):
            continue
        if labelled and len(cells) < 2:
            raise UserError(f"{path}, line {number}: no column of tags")
        tags = cells.pop().split(_SEPARATOR) if labelled else ()
        words = cells[-1 if labelled else 0].split(_SEPARATOR)
        yield Sentence(tuple(words), tuple(tags), path, number, 0)


class Part(NamedTuple):
    """The part of a sentence in one row: its words from `first` on."""

    sentence: int
    first: int
    starts: np.ndarray  # where in the row each word begins


@dataclass(frozen=True)
class Tags(Task):
    """Tagging: a softmax over tags at the first token of each word."""

    read = staticmethod(read_sentences)
    by_token = True

    @property
    def _bio(self) -> bool:
        return self.config.task.metric == "entity_f1"

    def labels_of(self, examples: Sequence[Sentence], path: str) -> tuple[str, ...]:
        """All tags or, for entities, O and then B and I of each kind."""
        found = {tag for each in examples for tag in each.tags}
        if found == {"O"} or (len(found) == 1 and not self._bio):
            raise UserError(f"{path} has one tag only: {found.pop()!r}")
        if not self._bio:
            return tuple(sorted(found))
        kinds: set[str] = set()
        for each in examples:
            for i, tag in enumerate(each.tags):
                parts = entity_tag(tag)
                if parts is None:
                    this = f"{tag!r} is not a tag of an entity (O, B-PER, I-PER …)"
                    remedy = "pass --task.metric accuracy for other tags"
                    raise UserError(f"{each.where(i)}: {this}: {remedy}")
                kinds.add(parts[1])
        check_distinct(kinds, path)
        pairs = (f"{place}-{kind}" for kind in sorted(kinds - {""}) for place in "BI")
        return ("O", *pairs)

    def encode(self, examples: Sequence[Sentence], labelled: bool) -> TaskRows:
        """Rows of whole words; the first token of a word has a label, others NONE."""
        rows = _split(examples, self.frame, self.config.length)
        labels = [np.full(len(ids), NONE, np.int32) for ids in rows.tokens]
        if labelled:
            numbers = [self._numbers(each) for each in examples]
            for row, (sentence, first, starts) in zip(
                labels, rows.origins, strict=True
            ):
                row[starts] = numbers[sentence][first : first + len(starts)]
        return rows._replace(labels=labels)

    def texts(self, example: Sentence) -> Sequence[str]:
        """The words."""
        return example.words

    def relabel(
        self, rows: TaskRows, examples: Sequence[Sentence]
    ) -> tuple[TaskRows, Counter[str], int]:
        """Figures read the tags of the examples."""
        tags = [tag for e in examples for tag in (*self._tags(e), *self._odd(e))]
        unseen = Counter(tag for tag in tags if tag not in self.labels)
        return rows, unseen, sum(len(each.tags) for each in examples)

    def _odd(self, sentence: Sentence) -> list[str]:
        """Tags that are not of entities, where they should be."""
        return [tag for tag in sentence.tags if self._bio and not entity_tag(tag)]

    def _numbers(self, sentence: Sentence) -> list[int]:
        labels, tags = self.labels, self._tags(sentence)
        for i, (given, tag) in enumerate(zip(sentence.tags, tags, strict=True)):
            if tag not in labels or (self._bio and entity_tag(given) is None):
                this = f"tag {given!r} is not in the training file"
                known = ", ".join(labels[:20])
                raise UserError(f"{sentence.where(i)}: {this}: {known}")
        return list(map(labels.index, tags))

    def _tags(self, sentence: Sentence) -> Sequence[str]:
        return as_bio(sentence.tags) if self._bio else sentence.tags

    def _answers(self, file: File, scores: Scores) -> list[list[str]]:
        answers: list[list[str]] = [[] for _ in file.examples]
        for part, score_LY in zip(file.rows.origins, scores, strict=True):
            best = score_LY[part.starts].argmax(1)
            answers[part.sentence] += [self.labels[int(i)] for i in best]
        return answers

    def figures(self, file: File, scores: Scores) -> dict[str, float]:
        """The F1 of entities; for other tags, the accuracy."""
        answers = self._answers(file, scores)
        found = entity_figures([self._tags(each) for each in file.examples], answers)
        if self._bio:
            return found
        counts = Counter(tag for each in file.examples for tag in each.tags)
        majority = majority_accuracy(np.array([*counts.values()]))
        return {"accuracy": found["accuracy"], "majority_accuracy": majority}

    def output(self, file: File, scores: Scores) -> str:
        """A line for each word with its tag, and a blank line after each sentence."""
        text = ""
        for each, tags in zip(file.examples, self._answers(file, scores), strict=True):
            pairs = zip(each.words, tags, strict=True)
            text += "".join(f"{word}\t{tag}\n" for word, tag in pairs) + "\n"
        return text


def _split(examples: Sequence[Sentence], frame: Frame, length: int) -> TaskRows:
    """Rows of as many whole words as fit; a word longer than a row is truncated."""
    begin, room = len(frame.begin), length - len(frame.begin) - len(frame.end)
    words = iter(frame.words([word for each in examples for word in each.words]))
    rows: list[Tokens] = []
    parts: list[Part] = []
    for sentence, each in enumerate(examples):
        tokens = [next(words)[:room] for _ in each.words]
        first = 0
        while first < len(tokens):
            ends = np.cumsum([len(word) for word in tokens[first:]])
            count = int(np.searchsorted(ends, room, side="right"))
            chunk = tokens[first : first + count]
            rows.append(frame.row(np.concatenate(chunk)))
            parts.append(Part(sentence, first, begin + np.append(0, ends[: count - 1])))
            first += count
    pair_start = np.array([len(row) for row in rows], np.int32)
    more = len(rows) - len(examples)
    notes = (f"{plural(more, 'more row')} for long sentences",) * bool(more)
    return TaskRows(rows, pair_start, frame.pad, [], notes, parts)


def as_bio(tags: Sequence[str]) -> list[str]:
    """BIO tags with the same entities as `tags`."""
    out = ["O"] * len(tags)
    for start, end, kind in entities(tags):
        out[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return out


def entity_figures(
    truth: Sequence[Sequence[str]], answer: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Micro-averaged figures of whole entities, as in conlleval; accuracy of tags."""
    correct = wanted = given = words = equal = 0
    for want, got in zip(truth, answer, strict=True):
        ours, theirs = set(entities(got)), set(entities(want))
        correct += len(ours & theirs)
        wanted, given = wanted + len(theirs), given + len(ours)
        words += len(want)
        equal += sum(a == b for a, b in zip(want, got, strict=True))
    return {
        "entity_f1": 2 * correct / max(1, wanted + given),
        "precision": correct / max(1, given),
        "recall": correct / max(1, wanted),
        "entities": float(wanted),
        "accuracy": equal / max(1, words),
    }
