"""A model as its file's tensors, wherever they come from: what is read and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.model import ModelConfig
from jaxlm.convert.rules import Table
from jaxlm.tree import leaves


class Source(NamedTuple):
    """A model whose tensors are read when they are wanted."""

    config: ModelConfig
    table: Table
    read: Callable[[str], np.ndarray]  # by the table's names
    missing: tuple[str, ...] = ()  # heads that it lacks
    notes: tuple[str, ...] = ()  # what was left aside

    @classmethod
    def of(
        cls, config: ModelConfig, table: Table, params: Any, missing: tuple[str, ...]
    ) -> Source:
        """Of parameters in memory, or on disk: of those only what the tensor that was
        asked for last is made of is in memory."""
        flat = dict(leaves(params))
        held: dict[str, np.ndarray] = {}

        def read(name: str) -> np.ndarray:
            paths = table.leaves_of(name)
            if held.keys() != set(paths):
                held.clear()
                held.update((path, np.asarray(flat[path])) for path in paths)
            return table.tensor(name, held.__getitem__)

        return cls(config, table, read, missing)
