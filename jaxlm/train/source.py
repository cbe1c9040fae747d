"""What a run is trained on: the seam between the loop and the many things to learn.

pretraining(config, corpus)            here: text, by the family's own objective
jaxlm.tasks                            files with labels, by a task's
train(config, work, workdir)        loop.py: everything else, the same for all
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import Phase, RunConfig
from jaxlm.data.pipeline import open_rows, read_rows
from jaxlm.evaluate import open_evaluation
from jaxlm.families import family_of
from jaxlm.objectives import Objective
from jaxlm.text.corpus import Corpus

Evaluate = Callable[[Any], dict[str, float]]  # parameters → figures


class BatchStream(NamedTuple):
    """The rows of a phase and what is learnt from them.

    `read(step, local)` gives the rows `local` of the batch of a step of the phase, as a
    tree of numpy arrays, and is a pure function: the position in the data is a number.
    Batches may differ in length; each shape is compiled once.
    """

    objective: Objective
    read: Callable[[int, np.ndarray], Any]
    length: Callable[[Any], int]  # of such rows, in tokens
    tokens: float  # of a step; the mean where shapes differ
    flops: float  # likewise
    dropout: bool  # whether the forward pass of training draws
    # Step → its rows, where the phase's batch counts something else.
    rows: Callable[[int], int] | None = None


class TrainingSource(NamedTuple):
    """What is trained and on what."""

    module: Any  # a Linen module with the `config` of its family and `example()`
    open_stream: Callable[[Phase, str], BatchStream]  # of a phase and its name
    evaluation: Callable[[NamedSharding], Evaluate | str]  # or why there is none
    zero_carry: Callable[[], Any] = tuple  # what the first batch begins with
    best: str = ""  # figure of it whose best parameters are kept; empty: none are
    patience: int = 0  # evaluations without a better one that end the run; 0: none do
    lr_scales: Any = None  # multiply each parameter's learning rate; None: all 1


def pretraining(config: RunConfig, corpus: Corpus) -> TrainingSource:
    """Text and the family's own objective."""
    family = family_of(config.model)
    module = family.build(
        config.model, dtype=jnp.dtype(config.precision), remat=config.remat
    )

    def open_stream(phase: Phase, stream: str) -> BatchStream:
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
        return BatchStream(
            objective,
            lambda step, local: read_rows(source, step * phase.batch + local),
            lambda rows: phase.length,
            tokens=float(phase.batch * phase.length),
            flops=float(family.train_flops(config, phase)),
            dropout=config.model.dropout > 0,
        )

    def evaluation(sharding: jax.sharding.Sharding) -> Evaluate | str:
        """On the held-out documents, in rows of the first phase's shape."""
        phase = config.all_phases[0]
        held_out = int(np.sum(corpus.documents[:, 2] == 1))
        needed = 2 if getattr(config.model, "nsp", False) else 1
        if held_out < needed:
            return f"{held_out} held-out documents, {needed} needed"
        return open_evaluation(
            config,
            module,
            corpus,
            sharding,
            split=1,
            phase=phase,
            batch=phase.batch // phase.accumulate,
            limit=config.eval_rows,
        )

    return TrainingSource(
        module,
        open_stream,
        evaluation,
        zero_carry=lambda: family.zero_carry(config.model, config.rows),
    )
