"""A model as the tensors of a file, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxlm.checkpoints import StoredLeaf
from jaxlm.config.model import ModelConfig
from jaxlm.convert.rules import Place, TensorTable
from jaxlm.tree import leaves


class ModelFile(NamedTuple):
    """A model whose tensors are read when they are wanted."""

    config: ModelConfig
    table: TensorTable
    read: Callable[[str], np.ndarray]  # by the table's names
    missing: tuple[str, ...] = ()  # heads that it lacks
    notes: tuple[str, ...] = ()  # what was left aside

    def params(self, place: Place) -> Any:
        """The parameter tree, placed leaf by leaf."""
        return self.table.params(self.read, place)

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        table: TensorTable,
        params: Any,
        missing: tuple[str, ...] = (),
    ) -> ModelFile:
        """A model whose parameters are in memory or on disk.

        A leaf on disk is verified when its first tensor is read, and held until a
        tensor of another leaf is.
        """
        flat = dict(leaves(params))
        held: dict[str, Any] = {}

        def read(name: str) -> np.ndarray:
            paths = table.leaves_of(name)
            for path in held.keys() - paths:
                del held[path]
            for path in set(paths) - held.keys():
                leaf = flat[path]
                stored = isinstance(leaf, StoredLeaf)
                held[path] = leaf.verified() if stored else np.asarray(leaf)
            return table.tensor(name, held.__getitem__)

        return cls(config, table, read, missing)
