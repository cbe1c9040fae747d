"""The mesh that a program is traced for: its axes, its platform, the place of its rows.

with jax.set_mesh(mesh): …          `sharding.make_mesh`; outside, there is one device
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

AXES = ("replica", "data", "fsdp", "tensor")
BATCH = ("replica", "data", "fsdp")  # the axes that cut the rows of a batch


def platform() -> str:
    """ "cpu", "gpu" or "tpu": what the mesh is made of, not what traces the program."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.devices()[0].platform


def row_parts() -> int:
    """The number of parts that the mesh cuts the rows of a batch into."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in BATCH)


def by_rows(x: Any) -> Any:
    """`x`, whose first axis is rows, kept cut by rows alone: nothing else is cut."""
    if not jax.sharding.get_abstract_mesh().shape or len(x) % row_parts():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH))


def whole(x: Any, *axes: str | None) -> Any:
    """`x`, uncut on every device, except along mesh axes that are named."""
    if not jax.sharding.get_abstract_mesh().shape:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def for_rows(table: Any, batch: Any) -> Any:
    """`table` with a copy for each part of the rows, [parts, …]; itself for one part.

    Each device holds the copy of its own rows alone. The gradients of all that reads
    the copies are added up on each device, and exchanged once.
    """
    parts = row_parts()
    if parts == 1 or batch % parts:
        return table
    free = (PartitionSpec.UNCONSTRAINED,) * table.ndim
    copies = jnp.broadcast_to(table[None], (parts, *table.shape))
    return jax.lax.with_sharding_constraint(copies, PartitionSpec(BATCH, *free))
