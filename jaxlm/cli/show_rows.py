"""Rows of a corpus in colour: segments, words, what is hidden and what is predicted."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from jaxlm.config import RunConfig
from jaxlm.data.layouts import LAYOUTS
from jaxlm.families import family_of
from jaxlm.text.corpus import Corpus
from jaxlm.types import (
    ElmoBatch,
    GptBatch,
    Mark,
    MlmBatch,
    TokenSpan,
    WordRows,
)

Lines = Iterator[str | Text]

_LEVELS = ("tokens", "phrases", "entities")
_NSP_LABELS = {
    "pairs": ("B follows A", "B is random"),
    "dialogues": ("as it was said", "an utterance is from elsewhere"),
}


def print_rows(corpus: Corpus, config: RunConfig, count: int) -> None:
    """Print the first rows of training as the model reads them."""
    phase, stream = config.all_phases[0], "train.0"
    family = family_of(config.model)
    module = family.build(config.model)
    objective = family.objective(config, module, corpus.manifest, phase, stream)
    source = LAYOUTS[objective.layout](config, corpus, phase, stream)
    rows = source.read(np.arange(count))
    batch = jax.device_get(jax.jit(objective.transform)(rows))
    console = Console(highlight=False)
    # Elsewhere than on a terminal, a row is a line, however long.
    show = functools.partial(console.print, soft_wrap=not console.is_terminal)
    lines_of = _LINES[type(batch)]
    for i in range(count):
        row, read = (jax.tree.map(lambda a, i=i: a[i], each) for each in (batch, rows))
        for line in lines_of(f"row {i}", corpus, objective.layout, row, read):
            show(line)


def _masked(name: str, corpus: Corpus, layout: str, row: MlmBatch, read: Any) -> Lines:
    """[MASK] and replaced tokens with what they were; below, the spans of the text."""
    said = [_NSP_LABELS[layout][int(row.nsp_labels)]] if layout in _NSP_LABELS else []
    if row.levels is not None:
        said.append(f"{_LEVELS[int(row.levels)]} are masked whole")
    yield f"{name}: {'; '.join(said)}" if said else name
    yield _masked_row(corpus, row)
    if corpus.manifest.recipe.marks_spans and layout != "dialogues":
        yield _spans_row(corpus, read.first)


def _words(
    name: str, corpus: Corpus, layout: str, row: ElmoBatch, read: WordRows
) -> Lines:
    """The words of both directions, with their targets."""
    del layout, row
    for way, direction in enumerate(("forward", "backward")):
        yield f"{name} {direction}"
        yield _word_row(corpus, jax.tree.map(lambda leaf, way=way: leaf[way], read))


def _text(name: str, corpus: Corpus, layout: str, row: GptBatch, read: Any) -> Lines:
    """The text, documents that do not see each other in different colours."""
    del layout, read
    yield name
    line = Text()
    styles = ("", "cyan", "magenta", "yellow")
    for segment in range(1, int(row.segments.max()) + 1):
        text = corpus.tokenizer.decode(np.asarray(row.tokens)[row.segments == segment])
        line.append(text, style=styles[segment % len(styles)])
    yield line


_LINES: dict[type, Callable[..., Lines]] = {
    MlmBatch: _masked,
    ElmoBatch: _words,
    GptBatch: _text,
}


def _masked_row(corpus: Corpus, row: MlmBatch) -> Text:
    targets = {
        int(at): int(target)
        for at, target, weight in zip(
            row.predictions, row.targets, row.weights, strict=True
        )
        if weight
    }
    line = Text()
    for at in range(int(row.mask.sum())):
        token = corpus.tokenizer.token(int(row.tokens[at]))
        if at in targets:
            was = corpus.tokenizer.token(targets[at])
            line.append(f"{token}", style="bold reverse")
            line.append(f"={was} ", style="bold green")
        else:
            line.append(f"{token} ", style="cyan" if row.token_types[at] else "")
    return line


def _spans_row(corpus: Corpus, span: TokenSpan) -> Text:
    """The stored text that the row was drawn from: (phrases), [entities]."""
    line = Text()
    marks = np.append(span.marks[: int(span.length)], 0)
    kinds = (
        (Mark.ENTITY, Mark.IN_ENTITY, "[]"),
        (Mark.PHRASE, Mark.IN_PHRASE, "()"),
    )
    for at, mark in enumerate(marks[:-1]):
        after = marks[at + 1]
        ends = {b: mark & i and (after & s or not after & i) for s, i, b in kinds}
        if mark & Mark.WORD:
            line.append(" ")
        opened = "".join(brackets[0] for start, _, brackets in kinds if mark & start)
        style = "magenta" if mark & Mark.IN_ENTITY else "dim"
        text = corpus.tokenizer.token(int(span.tokens[at])).removeprefix("##")
        closed = "".join(b[1] for _, _, b in reversed(kinds) if ends[b])
        line.append(opened + text + closed, style=style)
    return line


def _word_row(corpus: Corpus, row: WordRows) -> Text:
    """The words, each with its target if that is not the next word of the row."""
    line = Text()
    known = corpus.manifest.vocab_size
    count = int(row.valid.sum())
    for at in range(count):
        token, target = int(row.tokens[at]), int(row.targets[at])
        line.append(f"{corpus.types[token]} ", style="cyan" if token >= known else "")
        if at + 1 == count or int(row.tokens[at + 1]) != target:
            line.append(f"→{corpus.types[target]} ", style="bold green")
    return line
