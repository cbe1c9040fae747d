"""Rows of a corpus in colour: segments, words, what is hidden and what is predicted."""

from __future__ import annotations

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from jaxlm.config import RunConfig
from jaxlm.data.pipeline import open_source, read_rows
from jaxlm.models.bert import Bert
from jaxlm.objectives import masked_lm
from jaxlm.text.corpus import Corpus


def print_rows(corpus: Corpus, config: RunConfig, count: int) -> None:
    """The first rows of training: [MASK] and replaced tokens with what they were."""
    phase, stream = config.stretches[0], "train.0"
    source = open_source(
        corpus,
        split=0,
        length=phase.length,
        layout="pairs" if config.model.nsp else "blocks",
        seed=config.seed,
        stream=stream,
    )
    objective = masked_lm(
        Bert(config.model),
        config.model,
        config.data,
        phase,
        corpus.manifest.special,
        seed=config.seed,
        stream=stream,
    )
    rows = read_rows(source, np.arange(count))
    batch = jax.device_get(jax.jit(objective.transform)(rows))
    console = Console(highlight=False)
    for i in range(count):
        targets = {
            int(at): int(target)
            for at, target, weight in zip(
                batch.positions[i], batch.targets[i], batch.weights[i], strict=True
            )
            if weight
        }
        line = Text()
        for at in range(int(batch.mask[i].sum())):
            token = corpus.tokenizer.token(int(batch.tokens[i, at]))
            style = "cyan" if batch.token_types[i, at] else ""
            if at in targets:
                was = corpus.tokenizer.token(targets[at])
                line.append(f"{token}", style="bold reverse")
                line.append(f"={was} ", style="bold green")
            else:
                line.append(f"{token} ", style=style)
        label = ("B follows A", "B is random")[int(batch.nsp_labels[i])]
        console.print(f"row {i}" + (f": {label}" if config.model.nsp else ""))
        console.print(line)
