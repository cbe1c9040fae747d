"""Print rows of a corpus in colour: segments, words, hidden and predicted tokens."""

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
from jaxlm.metrics import Binary
from jaxlm.objectives.objective import Objective
from jaxlm.text.corpus import Corpus
from jaxlm.types import ElmoBatch, GptBatch, Mark, MlmBatch, TokenSpan, WordRows

Lines = Iterator[str | Text]

_LEVELS = ("tokens", "phrases", "entities")


def print_rows(corpus: Corpus, config: RunConfig, count: int) -> None:
    """Print the first rows of training as the model reads them."""
    phase, stream = config.all_phases[0], "train.0"
    family = family_of(config.model)
    module = family.build(config.model)
    objective = family.objective(config, module, corpus.manifest, phase, stream)
    rows = LAYOUTS[objective.layout](config, corpus, phase, stream).read(
        np.arange(count)
    )
    batch = jax.device_get(jax.jit(objective.transform)(rows))
    console = Console(highlight=False)
    # If the output is not a terminal, a row is one line, however long.
    show = functools.partial(console.print, soft_wrap=not console.is_terminal)
    kinds, causal = [batch], getattr(batch, "causal", None)
    if causal is not None:
        kinds = [causal, batch._replace(causal=None)]
    shown = (
        jax.tree.map(lambda a, i=i: a[i], kind)
        for kind in kinds
        for i in range(len(jax.tree.leaves(kind)[0]))
    )
    for i, row in enumerate(shown):
        read, lines_of = jax.tree.map(lambda a, i=i: a[i], rows), _LINES[type(row)]
        for line in lines_of(f"row {i}", corpus, objective, row, read):
            show(line)


def _masked(
    name: str, corpus: Corpus, objective: Objective, row: MlmBatch, read: Any
) -> Lines:
    """A BERT's row: its tokens, with targets at masked ones; then its spans."""
    questions = (each for each in objective.figures if isinstance(each, Binary))
    said = [f"{each.name} {each.answers[int(row.nsp_labels)]}" for each in questions]
    if row.levels is not None:
        said.append(f"{_LEVELS[int(row.levels)]} are masked whole")
    yield f"{name}: {'; '.join(said)}" if said else name
    token_of, there = corpus.tokenizer.token, row.weights > 0
    targets = dict(zip(row.predictions[there], row.targets[there], strict=True))
    line = Text()
    for at in range(int(row.mask.sum())):
        token = token_of(int(row.tokens[at]))
        if at in targets:
            line.append(token, style="bold reverse")
            line.append(f"={token_of(int(targets[at]))} ", style="bold green")
        else:
            line.append(f"{token} ", style="cyan" if row.token_types[at] else "")
    yield line
    if corpus.manifest.recipe.marks_spans and objective.layout != "dialogues":
        yield _spans(corpus, read.first)


def _spans(corpus: Corpus, span: TokenSpan) -> Text:
    """The text of a span as it is stored, with (phrases) and [entities] marked."""
    line = Text()
    marks = np.append(span.marks[: int(span.length)], 0)
    kinds = ((Mark.ENTITY, Mark.IN_ENTITY, "[]"), (Mark.PHRASE, Mark.IN_PHRASE, "()"))
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


def _words(
    name: str, corpus: Corpus, objective: Objective, row: ElmoBatch, read: WordRows
) -> Lines:
    """An ELMo's row in both directions, with each target that is not the next word."""
    del objective, row
    known = corpus.manifest.vocab_size
    for way, direction in enumerate(("forward", "backward")):
        yield f"{name} {direction}"
        tokens, targets = read.tokens[way], read.targets[way]
        count = int(read.valid[way].sum())
        line = Text()
        for at in range(count):
            style = "cyan" if tokens[at] >= known else ""
            line.append(f"{corpus.types[tokens[at]]} ", style=style)
            if at + 1 == count or tokens[at + 1] != targets[at]:
                line.append(f"→{corpus.types[targets[at]]} ", style="bold green")
        yield line


def _text(
    name: str, corpus: Corpus, objective: Objective, row: GptBatch, read: Any
) -> Lines:
    """A GPT's row: its text, with a colour for each segment."""
    del objective, read
    yield name
    line, styles = Text(), ("", "cyan", "magenta", "yellow")
    for segment in range(1, int(row.segments.max()) + 1):
        text = corpus.tokenizer.decode(np.asarray(row.tokens)[row.segments == segment])
        line.append(text, style=styles[segment % len(styles)])
    yield line


_LINES: dict[type, Callable[..., Lines]] = {
    MlmBatch: _masked,
    ElmoBatch: _words,
    GptBatch: _text,
}
