"""Parameters and held-out rows → figures, each beside its baseline.

The rows, masks and pairs of an evaluation are fixed: rows come in the order of the
plan, and the random stream is "evaluate". Training and `jaxlm evaluate` both use this.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Phase, RunConfig
from jaxlm.data.layouts import LAYOUTS, StreamRows
from jaxlm.data.rows import ahead
from jaxlm.families import family_of
from jaxlm.metrics import add, held_out, perplexity
from jaxlm.objectives.objective import STREAM, Objective
from jaxlm.sharding import local_rows, to_devices
from jaxlm.text.corpus import Corpus
from jaxlm.types import UserError
from jaxlm.xla import xla_options


def open_evaluation(
    run: RunConfig,
    module: nn.Module,
    corpus: Corpus,
    phase: Phase,
    sharding: jax.sharding.Sharding,
    *,
    split: int,
    limit: int = 0,
) -> Callable[[Any], dict[str, float]]:
    """A function parameters → figures by name, on a split in rows of a phase's shape.

    Rows of weight 0 fill up the last batch. At most `limit` rows are read, evenly
    spaced over the split; 0: all.
    """
    family = family_of(run.model)
    objective = family.objective(run, module, corpus.manifest, phase, STREAM)
    open_rows = LAYOUTS[objective.layout]
    source = open_rows(run, corpus, phase, STREAM, split, shuffle=False, limit=limit)
    batch = phase.batch
    local, steps = local_rows(sharding, batch), -(-source.rows // batch)

    @functools.partial(jax.jit, compiler_options=xla_options(run))
    def sums_of(params, rows, carry):
        drawn = objective.transform(rows)
        return _sums(objective, params, drawn, carry, run.model.vocab_size)

    def evaluate(params: Any) -> dict[str, float]:
        total, carry = None, family.zero_carry(run.model, batch)
        read = functools.partial(ahead, start=0, stop=steps, threads=2)
        for rows in read(lambda step: source.read(step * batch + local)):
            rows = to_devices(rows, local, sharding, batch)
            sums, carry = sums_of(params, rows, carry)
            total = sums if total is None else add(total, sums)
        return held_out(objective.figures, *jax.device_get(total))

    return evaluate


def _sums(objective: Objective, params: Any, drawn: Any, carry: Any, vocab_size: int):
    """((sums of a batch, how often each token is a target), carry)."""
    sums, carry = objective.loss(params, drawn, carry)
    counts_V = jnp.zeros(vocab_size).at[drawn.targets].add(drawn.weights)
    return (sums, counts_V), carry


def evaluate_stream(
    run: RunConfig,
    module: nn.Module,
    corpus: Corpus,
    phase: Phase,
    params: Any,
    *,
    split: int,
    stride: int,
    limit: int = 0,
) -> dict[str, float]:
    """A decoder's figures on a whole text, read with a sliding window.

    Each token is predicted once. Windows of `phase.length` tokens move by `stride` and
    score their last `stride` tokens, so every token except the first ones has at least
    `phase.length - stride` tokens of context. At most `limit` windows are read, from
    the start; 0: all. Documents lie end to end with <|endoftext|> between them, as in
    training: these tokens count in the loss, but not as words or bytes.

    Returns:
        Figures by name: loss in nats and perplexity per token, perplexity per word
        (separated by white space), bits per byte of UTF-8, and the number of each.
    """
    length, batch = phase.length, phase.batch
    if not 1 <= stride <= length <= run.model.max_length:
        raise UserError(
            f"stride = {stride} and length = {length} are not 1 ≤ stride ≤ length ≤ "
            f"model.max_length = {run.model.max_length}"
        )
    family = family_of(run.model)
    objective = family.objective(run, module, corpus.manifest, phase, STREAM)
    source = StreamRows(run, corpus, phase, STREAM, split, shuffle=False)
    total = int(source.positions()[-1])
    scored_from = np.arange(0, total, stride)[: limit or None]
    source.windows = np.maximum(scored_from + stride - length, 0)

    @functools.partial(jax.jit, compiler_options=xla_options(run))
    def sums_of(params, rows, first):
        drawn, at = objective.transform(rows), jnp.arange(length)[None]
        scored = (at >= first[:, None]) & (at < first[:, None] + stride)
        drawn = drawn._replace(weights=drawn.weights * scored)
        return _sums(objective, params, drawn, (), run.model.vocab_size)[0]

    sums = None
    for start in range(0, source.rows, batch):
        numbers = np.arange(start, start + batch)
        at = np.minimum(numbers, source.rows - 1)
        first = scored_from[at] - source.windows[at]
        each = jax.device_get(sums_of(params, source.read(numbers), first))
        # float32 would lose the tail of a long text.
        each = jax.tree.map(np.float64, each)
        sums = each if sums is None else add(sums, each)
    assert sums is not None
    out = held_out(objective.figures, *sums)
    scored = min(total, len(scored_from) * stride)
    words, size = _words_and_bytes(corpus, source, scored)
    nats = out["loss"] * out["targets"]
    out["word_perplexity"] = perplexity(nats / words) if words else math.nan
    out["bits_per_byte"] = nats / math.log(2) / size if size else math.nan
    return {**out, "words": float(words), "bytes": float(size)}


def _words_and_bytes(
    corpus: Corpus, source: StreamRows, tokens: int
) -> tuple[int, int]:
    """The number of words and bytes in the first `tokens`, without <|endoftext|>."""
    words = size = 0
    end = corpus.end_of_document
    for first, stop in source.pieces[:, 1:].T:
        stop = min(stop, first + tokens)
        ids = corpus.read(np.array([first]), int(stop - first))[0][0]
        for document in np.split(ids, np.flatnonzero(ids == end)):
            text = corpus.tokenizer.decode(document[document != end])
            words += len(text.split())
            size += len(text.encode())
        tokens -= int(stop - first)
    return words, size
