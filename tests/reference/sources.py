"""Rows of a corpus in any layout, without the rest of a run."""

import numpy as np

from jaxlm.config import BertConfig, GptConfig, MaskedData, Phase, RunConfig
from jaxlm.data.layouts import LAYOUTS
from jaxlm.data.rows import RowSource, ahead


def open_source(
    corpus,
    *,
    layout: str,
    length: int,
    seed: int,
    stream: str,
    split: int = 0,
    shuffle: bool = True,
    limit: int = 0,
    smoothing: float = 1.0,
    **data,
) -> RowSource:
    """Rows as a run reads them; `data` are fields of `MaskedData`."""
    family = {"model": BertConfig(), "data": MaskedData(**data)}
    if layout == "stream":
        family = {"model": GptConfig()}
    config = RunConfig(seed=seed, smoothing=smoothing, **family)
    phase = any_phase(length, 1)
    return LAYOUTS[layout](config, corpus, phase, stream, split, shuffle, limit)


def any_phase(length: int, batch: int) -> Phase:
    """A phase, also with rows that are too short for a run: a small corpus has many."""
    phase = Phase(until=1, batch=batch, predictions=1)
    object.__setattr__(phase, "length", length)
    return phase


def batches(source: RowSource, batch: int, local: np.ndarray, **steps):
    """A host's rows of some batches: `local` are their numbers in a batch."""
    return ahead(lambda step: source.read(step * batch + local), **steps)
