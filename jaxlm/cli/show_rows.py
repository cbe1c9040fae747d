"""Rows of a corpus in colour: segments, words, what is hidden and what is predicted."""

from __future__ import annotations

import functools

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from jaxlm.config import RunConfig
from jaxlm.data.pipeline import open_rows, read_rows
from jaxlm.families import family_of
from jaxlm.text.corpus import Corpus
from jaxlm.types import ElmoBatch, GptBatch, Mark, MlmBatch, Rows, TokenSpan, WordRows


def print_rows(corpus: Corpus, config: RunConfig, count: int) -> None:
    """The first rows of training: [MASK] and replaced tokens with what they were, or
    the text that a decoder reads."""
    phase, stream = config.all_phases[0], "train.0"
    family = family_of(config.model)
    module = family.build(config.model)
    objective = family.objective(config, module, corpus.manifest, phase, stream)
    source = open_rows(
        config,
        corpus,
        objective.layout,
        split=0,
        length=phase.length,
        batch=phase.batch,
        stream=stream,
    )
    rows = read_rows(source, np.arange(count))
    batch = jax.device_get(jax.jit(objective.transform)(rows))
    console = Console(highlight=False)
    # What is not read on a terminal has a line a row, however long.
    show = functools.partial(console.print, soft_wrap=not console.is_terminal)
    for i in range(count):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        if isinstance(batch, GptBatch):
            show(f"row {i}")
            show(_decoder_row(corpus, row))
            continue
        if isinstance(batch, ElmoBatch):
            for way, name in enumerate(("forward", "backward")):
                at = (i, way)
                words = jax.tree.map(lambda leaf, at=at: leaf[at], rows)
                show(f"row {i} {name}")
                show(_word_row(corpus, words))
            continue
        labels = {
            "pairs": ("B follows A", "B is random"),
            "dialogues": ("as it was said", "an utterance is from elsewhere"),
        }.get(objective.layout)
        said = [labels[int(row.nsp_labels)]] if labels else []
        if row.levels is not None:
            kind = ("tokens", "phrases", "entities")[int(row.levels)]
            said.append(f"{kind} are masked whole")
        show(": ".join([f"row {i}", "; ".join(said)] if said else [f"row {i}"]))
        show(_masked_row(corpus, row))
        if corpus.marks_spans and isinstance(rows, Rows):
            show(_spans_row(corpus, rows.first, i))


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


def _spans_row(corpus: Corpus, span: TokenSpan, i: int) -> Text:
    """What the row was drawn from: words apart, (phrases), [entities]."""
    line = Text()
    marks = np.append(span.marks[i, : span.length[i]], 0)
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
        text = corpus.tokenizer.token(int(span.tokens[i, at])).removeprefix("##")
        closed = "".join(b[1] for _, _, b in reversed(kinds) if ends[b])
        line.append(opened + text + closed, style=style)
    return line


def _word_row(corpus: Corpus, row: WordRows) -> Text:
    """Words read, with the target behind each that is not simply the next one read."""
    line = Text()
    known = corpus.manifest.vocab_size
    count = int(row.valid.sum())
    for at in range(count):
        token, target = int(row.tokens[at]), int(row.targets[at])
        line.append(f"{corpus.types[token]} ", style="cyan" if token >= known else "")
        if at + 1 == count or int(row.tokens[at + 1]) != target:
            line.append(f"→{corpus.types[target]} ", style="bold green")
    return line


def _decoder_row(corpus: Corpus, row: GptBatch) -> Text:
    """The text of a row: documents that do not see each other in turning colours."""
    line = Text()
    styles = ("", "cyan", "magenta", "yellow")
    for segment in range(1, int(row.segments.max()) + 1):
        text = corpus.tokenizer.decode(np.asarray(row.tokens)[row.segments == segment])
        line.append(text, style=styles[segment % len(styles)])
    return line
