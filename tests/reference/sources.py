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
    phase = Phase(until=1, length=length, batch=1, predictions=1)
    return LAYOUTS[layout](config, corpus, phase, stream, split, shuffle, limit)


def batches(source: RowSource, batch: int, local: np.ndarray, **steps):
    """A host's rows of some batches: `local` are their numbers in a batch."""
    return ahead(lambda step: source.read(step * batch + local), **steps)
