"""Parameters and held-out rows → figures, each beside its baseline.

Rows, masks and pairs of an evaluation are fixed: the plan's order, stream "evaluate".
The same function serves the loop and the verb.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Phase, RunConfig
from jaxlm.data.device import local_rows, to_devices
from jaxlm.data.pipeline import batches, open_source
from jaxlm.metrics import (
    balanced_accuracy,
    figures,
    majority_accuracy,
    perplexity,
    unigram_loss,
)
from jaxlm.objectives import Sums, objective_of
from jaxlm.text.corpus import Corpus


def open_evaluation(
    config: RunConfig,
    module: nn.Module,
    corpus: Corpus,
    sharding: jax.sharding.Sharding,
    *,
    split: int,
    phase: Phase,
    batch: int,
    limit: int = 0,
) -> Callable[[Any], dict[str, float]]:
    """A function of the parameters that gives figures by name.

    Args:
        config: the run that the parameters are of.
        module: its model.
        corpus: held-out text, with the run's vocabulary.
        sharding: of the rows.
        split: of the corpus.
        phase: length of the rows, and most predictions in one.
        batch: rows of a batch; the last one is filled up with rows of weight 0.
        limit: most rows, evenly spaced over the split; 0: all.

    Raises:
        UserError: the split is empty, or has one document where pairs need two.
    """
    stream = "evaluate"
    objective = objective_of(config, module, corpus.manifest, phase, stream=stream)
    source = open_source(
        corpus,
        split=split,
        length=phase.length,
        layout=objective.layout,
        seed=config.seed,
        stream=stream,
        shuffle=False,
        limit=limit,
    )

    @jax.jit
    def sums_of(params, rows):
        drawn = objective.transform(rows)
        counts_V = (
            jnp.zeros(config.model.vocab_size).at[drawn.targets].add(drawn.weights)
        )
        return objective.loss(params, drawn), counts_V

    local = local_rows(sharding, batch)
    steps = -(-source.rows // batch)

    def evaluate(params: Any) -> dict[str, float]:
        total = None
        for rows in batches(source, batch, local, start=0, stop=steps, threads=2):
            sums = sums_of(params, to_devices(rows, local, sharding, batch))
            total = sums if total is None else jax.tree.map(operator.add, total, sums)
        sums, counts_V = jax.device_get(total)
        return with_baselines(sums, counts_V)

    return evaluate


def with_baselines(sums: Sums, counts_V: np.ndarray) -> dict[str, float]:
    """Figures of an evaluation with their baselines.

    The unigram baselines are fitted on the held-out targets themselves: no model that
    is blind to context can do better on them.

    Args:
        sums: of an objective.
        counts_V: how often each token was the target.
    """
    out = figures(sums)
    name = "mlm" if "mlm_loss" in sums else "lm"
    out[f"{name}_perplexity"] = perplexity(out[f"{name}_loss"])
    out["unigram_loss"] = unigram_loss(counts_V)
    out["unigram_accuracy"] = majority_accuracy(counts_V)
    out["targets"] = float(counts_V.sum())
    if "nsp_loss" in sums:
        by_label = [sums["nsp_next_accuracy"], sums["nsp_random_accuracy"]]
        right, rows = np.array(by_label).T
        out["nsp_balanced_accuracy"] = balanced_accuracy(right, rows)
        out["nsp_majority_accuracy"] = majority_accuracy(rows)
    return out
