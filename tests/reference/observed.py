"""Measure rows of a `Numbered` corpus in the same way for jaxlm and the reference."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple
from unittest.mock import Mock

import flax.linen as nn
import jax
import numpy as np
from reference.bert_data import Reference
from reference.numbered import FIRST, Numbered
from reference.sources import open_source

from jaxlm.config import BertConfig, MaskedData, Phase, RunConfig
from jaxlm.data.rows import RowSource
from jaxlm.objectives.masked import masked_lm
from jaxlm.text.corpus import Manifest
from jaxlm.types import MlmBatch

BLOCK = 2048  # rows drawn at a time
DATA = MaskedData()


class Pairs(NamedTuple):
    """The span of the corpus that A and B of each row were read from."""

    a: np.ndarray  # first token of A
    len_a: np.ndarray
    b: np.ndarray
    len_b: np.ndarray
    is_random: np.ndarray

    def where(self, these: np.ndarray) -> Pairs:
        return Pairs(*(field[these] for field in self))


def pairs_of_reference(
    reference: Reference, corpus: Numbered, passes: int, *, seed: int = 0
) -> list[Pairs]:
    """The rows of each pass over all documents."""
    rng = random.Random(seed)
    documents = corpus.as_lists()
    return [
        _as_arrays(
            pair
            for number in range(len(documents))
            for pair in reference.pairs(documents, number, rng)
        )
        for _ in range(passes)
    ]


def first_pairs_of_reference(
    reference: Reference, corpus: Numbered, rows: int, *, seed: int = 0
) -> Pairs:
    """Many draws of the row that begins the first document."""
    rng = random.Random(seed)
    documents = corpus.as_lists()
    return _as_arrays(next(reference.pairs(documents, 0, rng)) for _ in range(rows))


def _as_arrays(pairs) -> Pairs:
    rows = [(p.a[0], len(p.a), p.b[0], len(p.b), p.is_random) for p in pairs]
    return Pairs(*np.array(rows, np.int64).T)


class Road(NamedTuple):
    """A source and the jitted transform that follows it."""

    source: RowSource
    transform: object
    corpus: Numbered

    def batch(self, rows: np.ndarray) -> MlmBatch:
        """The batch of these rows, on the host; drawn in blocks."""
        parts = []
        for at in range(0, len(rows), BLOCK):
            block = rows[at : at + BLOCK]
            filled = np.resize(block, BLOCK)  # one shape, compiled once
            parts.append(jax.device_get(self.transform(self.source.read(filled))))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)

    def passes(self, count: int) -> list[MlmBatch]:
        """One batch for each pass."""
        n = self.source.rows
        return [self.batch(np.arange(p * n, (p + 1) * n)) for p in range(count)]


def road(
    corpus: Numbered,
    *,
    length: int = 128,
    predictions: int = 20,
    nsp: bool = True,
    data: MaskedData = DATA,
    seed: int = 7,
    **source,
) -> Road:
    """The source and transform of a pretraining run; `source` goes to `open_source`."""
    options = {"split": 0, "stream": "test", "draws": data.draws, **source}
    numbered = isinstance(corpus, Numbered)
    special = corpus.special if numbered else corpus.manifest.special
    transform = _transform(
        length, predictions, nsp, data, seed, options["stream"], special
    )
    layout = "pairs" if nsp else "blocks"
    opened = open_source(corpus, length=length, layout=layout, seed=seed, **options)
    return Road(opened, transform, corpus)


@functools.cache
def _transform(length, predictions, nsp, data, seed, stream, special):
    run = RunConfig(model=BertConfig(nsp=nsp), data=data, seed=seed)
    manifest = Mock(Manifest, special=special)
    phase = Phase(until=1, length=length, batch=1, predictions=predictions)
    # Only the loss applies the module.
    return jax.jit(masked_lm(run, nn.Dense(1), manifest, phase, stream).transform)


def unmasked(batch: MlmBatch) -> np.ndarray:
    """The rows' tokens before masking."""
    tokens = batch.tokens.copy()
    row, column = np.nonzero(batch.weights)
    tokens[row, batch.predictions[row, column]] = batch.targets[row, column]
    return tokens


def pairs_of(batch: MlmBatch, special) -> Pairs:
    """Check that a batch's rows are well formed; return where they were read."""
    tokens = unmasked(batch)
    rows, length = tokens.shape
    at = np.arange(length)
    total = batch.mask.sum(axis=1)
    seps = tokens == special.sep
    np.testing.assert_array_equal(seps.sum(axis=1), 2)
    len_a = np.argmax(seps, axis=1) - 1
    len_b = total - len_a - 3
    assert (len_a > 0).all() and (len_b > 0).all()
    a, b = tokens[:, 1], tokens[np.arange(rows), len_a + 2]
    # [CLS] A [SEP] B [SEP] padding, written out again from the four numbers.
    in_a = (at >= 1) & (at <= len_a[:, None])
    in_b = (at >= len_a[:, None] + 2) & (at < total[:, None] - 1)
    expected = np.where(at < total[:, None], special.sep, special.pad)
    expected[:, 0] = special.cls
    expected = np.where(in_a, a[:, None] + at - 1, expected)
    expected = np.where(in_b, b[:, None] + at - len_a[:, None] - 2, expected)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(batch.mask, at < total[:, None])
    types = (at >= len_a[:, None] + 2) & batch.mask
    np.testing.assert_array_equal(batch.token_types, types)
    return Pairs(a - FIRST, len_a, b - FIRST, len_b, batch.nsp_labels == 1)


def uses(pairs: Pairs, num_tokens: int) -> np.ndarray:
    """How often each token of the corpus is in a row."""
    change = np.zeros(num_tokens + 1, np.int64)
    for start, length in ((pairs.a, pairs.len_a), (pairs.b, pairs.len_b)):
        np.add.at(change, start, 1)
        np.add.at(change, start + length, -1)
    return np.cumsum(change)[:-1]


def lost(pairs: Pairs, corpus: Numbered) -> dict[str, np.ndarray]:
    """How many tokens truncation removed at each end of A and B, by row."""
    bounds = np.append(corpus.sentences, corpus.num_tokens)
    out = {}
    for name, start, length in (
        ("a", pairs.a, pairs.len_a),
        ("b", pairs.b, pairs.len_b),
    ):
        stop = start + length
        before = bounds[np.searchsorted(bounds, start, side="right") - 1]
        after = bounds[np.searchsorted(bounds, stop, side="left")]
        out[f"{name}_front"] = start - before
        out[f"{name}_back"] = after - stop
    return out


def figures(pairs: Pairs, corpus: Numbered) -> dict[str, np.ndarray]:
    """Samples of every measured quantity, separately for next and for random pairs."""
    numbers = {
        "len_a": pairs.len_a,
        "len_b": pairs.len_b,
        "total": pairs.len_a + pairs.len_b,
        **lost(pairs, corpus),
    }
    out = {"is_random": pairs.is_random.astype(np.int64)}
    for label, kind in enumerate(("next", "random")):
        these = pairs.is_random == label
        out |= {f"{name} of {kind}": each[these] for name, each in numbers.items()}
    return out


def join(batches: list[Pairs]) -> Pairs:
    return Pairs(*map(np.concatenate, zip(*batches, strict=True)))


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    if not len(ours) or not len(theirs):
        return float(len(ours) != len(theirs))
    at = np.union1d(ours, theirs)
    share = [
        np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (ours, theirs)
    ]
    return float(np.abs(share[0] - share[1]).max())


def noise(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The distance that samples of one distribution exceed with p < 1e-8."""
    n, m = max(len(ours), 1), max(len(theirs), 1)
    return float(np.sqrt(-0.5 * np.log(0.5e-8) * (1 / n + 1 / m)))


def differences(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], slack: float = 0.0
) -> dict[str, tuple[float, float]]:
    """(distance, noise) of the quantities that differ by more than noise + `slack`."""
    found = {
        name: (distance(ours[name], theirs[name]), noise(ours[name], theirs[name]))
        for name in ours
    }
    return {name: each for name, each in found.items() if each[0] > each[1] + slack}
