"""What a program is traced for: the axes of its mesh, its platform, its rows.

The mesh is that of `jax.set_mesh` or `use_abstract_mesh`; outside, there is one device.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

AXES = ("replica", "data", "fsdp", "tensor")
BATCH = ("replica", "data", "fsdp")  # the axes that cut the rows of a batch
MODEL = ("data", "fsdp", "tensor")  # the axes that cut the state


def platform() -> str:
    """The kind of the mesh's devices, "cpu", "gpu" or "tpu"; the host's may differ."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.devices()[0].platform


def batch_axes() -> tuple[str, ...]:
    """The axes that cut rows; in a `shard_map` over some of them, the others."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(axis for axis in BATCH if axis not in manual)


def row_parts() -> int:
    """The number of parts that the mesh cuts the rows of a batch into."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in batch_axes())


def by_rows(x: Any) -> Any:
    """`x`, cut along its first axis, the rows, and along no other."""
    if not jax.sharding.get_abstract_mesh().shape or len(x) % row_parts():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(batch_axes()))


def joined(first: Any, second: Any) -> Any:
    """Two trees of rows in one, in blocks: the order does not depend on the mesh.

        first [6, …], second [9, …]     f f s s s   f f s s s   f f s s s

    If the mesh divides both numbers of rows, no row moves to another device.
    """

    def join(a: Any, b: Any) -> Any:
        count = blocks(len(a), len(b))
        both = jnp.concatenate([_in_blocks(a, count), _in_blocks(b, count)], axis=1)
        return both.reshape(-1, *a.shape[1:])

    return jax.tree.map(join, first, second)


def parted(tree: Any, rows: int) -> tuple[Any, Any]:
    """The two trees of which a tree was `joined`; the first one had so many rows."""

    def part(x: Any, first: bool) -> Any:
        count = blocks(rows, len(x) - rows)
        here = slice(rows // count) if first else slice(rows // count, None)
        return _in_blocks(x, count)[:, here].reshape(-1, *x.shape[1:])

    trees = (
        jax.tree.map(lambda x, f=first: part(x, f), tree) for first in (True, False)
    )
    return next(trees), next(trees)


def blocks(first: int, second: int) -> int:
    """The number of blocks in which rows of two kinds are `joined`."""
    return math.gcd(first, second)


def _in_blocks(x: Any, count: int) -> Any:
    x = x.reshape(count, -1, *x.shape[1:])
    if row_parts() == 1 or count % row_parts():
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(batch_axes(), *free))


def whole(x: Any, *axes: str | None) -> Any:
    """`x`, cut only as `axes` says: a mesh axis, or None, for each of its axes."""
    if not jax.sharding.get_abstract_mesh().shape:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def by_matrix(function: Callable[[jax.Array], jax.Array], x: Any) -> Any:
    """A function of a stack of matrices [N, R, C], each of them whole on one device."""
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = [axis for axis in MODEL if sizes.get(axis, 1) > 1]
    parts = math.prod(sizes[axis] for axis in axes)
    if parts == 1:
        return function(x)
    n, rows, columns = x.shape
    x = jnp.pad(x, ((0, -n % parts), (0, 0), (0, 0)))
    x = jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
    x = jax.lax.with_sharding_constraint(function(x), PartitionSpec(axes))
    if not rows % parts or not columns % parts:
        at = (None, axes) if not rows % parts else (None, None, axes)
        x = jax.lax.with_sharding_constraint(x, PartitionSpec(*at))
    return x[:n]


def for_rows(table: Any, batch: Any) -> Any:
    """Copies of `table`, [parts, …], one for each part of the rows; `table` if there is
    one part.

    Each device holds the copy for its own rows. It adds up the gradients of all that
    reads this copy, so that devices exchange them once.
    """
    parts = row_parts()
    if parts == 1 or batch % parts:
        return table
    free = (PartitionSpec.UNCONSTRAINED,) * table.ndim
    copies = jnp.broadcast_to(table[None], (parts, *table.shape))
    return jax.lax.with_sharding_constraint(copies, PartitionSpec(batch_axes(), *free))
