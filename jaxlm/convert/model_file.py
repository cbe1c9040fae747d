"""A model as its file's tensors, wherever they come from: what is read and written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxlm.checkpoints import StoredLeaf
from jaxlm.config.model import ModelConfig
from jaxlm.convert.rules import TensorTable
from jaxlm.tree import leaves


class ModelFile(NamedTuple):
    """A model whose tensors are read when they are wanted."""

    config: ModelConfig
    table: TensorTable
    read: Callable[[str], np.ndarray]  # by the table's names
    missing: tuple[str, ...] = ()  # heads that it lacks
    notes: tuple[str, ...] = ()  # what was left aside

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        table: TensorTable,
        params: Any,
        missing: tuple[str, ...],
    ) -> ModelFile:
        """Of parameters in memory, or on disk: each leaf of those is verified once, for
        all tensors that it makes one behind another, while the one before is read."""
        flat = dict(leaves(params))
        names = (path for name in table.shapes for path in table.leaves_of(name))
        order = list(dict.fromkeys(names))
        behind = dict(itertools.pairwise(order))
        thread = ThreadPoolExecutor(1)
        held: dict[str, Future[Any]] = {}

        def read(name: str) -> np.ndarray:
            paths = table.leaves_of(name)
            wanted = [*paths, *filter(None, [behind.get(paths[-1])])]
            if held.keys() != set(wanted):
                kept = {
                    path: held.get(path) or thread.submit(_values, flat[path])
                    for path in wanted
                }
                held.clear()
                held.update(kept)
            return table.tensor(name, lambda path: held[path].result())

        return cls(config, table, read, missing)


def _values(leaf: Any) -> Any:
    return leaf.verified() if isinstance(leaf, StoredLeaf) else np.asarray(leaf)
