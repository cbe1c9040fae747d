"""What a run trains on: a corpus here, the files of a task in `jaxlm/tasks`.

    train(config, corpus_source(config, corpus), workdir)

Next: `loop.py`, which reads the batches and is the same for all sources.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxlm.config import Phase, RunConfig
from jaxlm.data.layouts import LAYOUTS
from jaxlm.evaluate import STREAM, open_evaluation
from jaxlm.families import family_of
from jaxlm.metrics import Figure
from jaxlm.objectives.objective import Objective
from jaxlm.text.corpus import Corpus
from jaxlm.train.state import NewParams

EvaluateFn = Callable[[Any], dict[str, float]]  # parameters → figures


class BatchStream(NamedTuple):
    """The batches of a phase and their objective.

    `read(step, local)` returns the rows `local` of the batch of a step of the phase, as
    a tree of numpy arrays. It is a pure function, so the step number is the position in
    the data. Batches may differ in shape; each shape is compiled once.
    """

    objective: Objective
    read: Callable[[int, np.ndarray], Any]
    length: Callable[[Any], int]  # rows → tokens in each
    tokens: float  # in a step; the mean if shapes differ
    flops: float  # of the model in a step; the mean if shapes differ
    dropout: bool
    rows: Callable[[int], int] | None = None  # step → rows; None: the phase's batch


class TrainingSource(NamedTuple):
    """A module with its training batches and its evaluation."""

    module: Any  # a Linen module with the `config` of its family and `example()`
    open_stream: Callable[[Phase, str], BatchStream]  # a phase and its name
    evaluation: Callable[[NamedSharding], EvaluateFn | str]  # or why there is none
    figures: tuple[Figure, ...]  # of the evaluation
    zero_carry: Callable[[], Any] = tuple  # the carry before the first batch
    best: str = ""  # figure whose best parameters are kept; empty: none are
    patience: int = 0  # evaluations without a better figure that end the run; 0: never
    new: NewParams | None = None  # what a task adds to the model of `init`
    lr_scales: Any = None  # multiply each parameter's learning rate; None: all 1
    rebuilt: Callable[[RunConfig], Any] | None = None  # the same data, another config
    digests: Mapping[str, str] = MappingProxyType({})  # of text and tokenizer


def corpus_source(config: RunConfig, corpus: Corpus) -> TrainingSource:
    """The source of a pretraining run: a corpus and the objective of the family."""
    family = family_of(config.model)
    module = family.build(
        config.model, dtype=jnp.dtype(config.precision), remat=config.remat
    )

    def open_stream(phase: Phase, stream: str) -> BatchStream:
        objective = family.objective(config, module, corpus.manifest, phase, stream)
        source = LAYOUTS[objective.layout](config, corpus, phase, stream)
        return BatchStream(
            objective,
            lambda step, local: source.read(step * phase.batch + local),
            lambda rows: phase.length,
            tokens=float(phase.batch * phase.length),
            flops=float(family.train_flops(config, phase)),
            dropout=config.model.dropout > 0,
        )

    def evaluation(sharding: jax.sharding.Sharding) -> EvaluateFn | str:
        """The evaluation on held-out documents, in rows of the first phase's shape."""
        phase = config.all_phases[0]
        held_out = int(np.sum(corpus.documents[:, 2] == 1))
        objective = family.objective(config, module, corpus.manifest, phase, STREAM)
        needed = LAYOUTS[objective.layout].documents_needed
        if held_out < needed:
            return f"{held_out} held-out documents, {needed} needed"
        phase = dataclasses.replace(phase, batch=phase.batch // phase.accumulate)
        options: Any = {"split": 1, "limit": config.eval_rows}
        return open_evaluation(config, module, corpus, phase, sharding, **options)

    return TrainingSource(
        module,
        open_stream,
        evaluation,
        family.figures(config),
        zero_carry=lambda: family.zero_carry(config.model, config.all_phases[0].batch),
        digests=corpus.digests,
        rebuilt=lambda config: corpus_source(config, corpus),
    )
