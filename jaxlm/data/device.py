"""Host rows → one global array per field, each device holding its own rows."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def local_rows(sharding: jax.sharding.Sharding, batch: int) -> np.ndarray:
    """The rows of a global batch that this host's devices hold, ascending."""
    slices = sharding.addressable_devices_indices_map((batch,)).values()
    held = {row for index in slices if index for row in range(batch)[index[0]]}
    return np.array(sorted(held), np.int64)


def to_devices(
    rows: Any, local: np.ndarray, sharding: jax.sharding.Sharding, batch: int
) -> Any:
    """Global arrays [batch, ...] from a tree of this host's rows [len(local), ...].

    `local` is from `local_rows`; `sharding` is that of the leading axis.
    """

    def place(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            at = np.searchsorted(local, range(batch)[index[0]])
            return array[at]

        return jax.make_array_from_callback((batch, *array.shape[1:]), sharding, part)

    return jax.tree.map(place, rows)
