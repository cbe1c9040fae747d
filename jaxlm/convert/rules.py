"""The two-way table of a family: leaves of a parameter tree ↔ tensors of a file.

    table = TensorTable(rules, shapes)          total on both sides, or an error
    table.shapes                          what the file must hold, by name
    table.tensor(name, leaf)              leaves → one tensor of the file
    table.params(read, place)             tensors → the parameter tree

A rule says which leaf is which tensor, once; writing and reading both follow it. It
knows four things that differ: a leaf of all layers is a tensor a layer ("{0}" in the
name is the first axis of the leaf), axes of heads are one axis, torch keeps a kernel as
outputs × inputs, and GPTs join query, key and value.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.memory import aligned, transposed
from jaxlm.tree import leaves, map_with_path, match
from jaxlm.types import UserError

Place = Callable[[str, np.ndarray], Any]
_SHOWN = 20  # lines of a difference


class Rule(NamedTuple):
    """A tensor, or one for each layer, and the leaf or leaves that it is made of."""

    ours: tuple[str, ...]  # several: joined along the last axis
    theirs: str  # "{0}", "{1}": index along the first axes of the leaf
    inputs: int = 0  # axes then that are a matrix's rows; 0: a vector
    transpose: bool = False
    rows: int = 0  # of a table, those that are not padding; 0: all
    view: tuple[int, ...] = ()  # the tensor's shape where it is neither

    @property
    def stacked(self) -> int:
        """Axes of the leaf that the name counts."""
        return len(set(re.findall(r"{\d}", self.theirs)))

    def shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """Of a tensor whose leaves have shape `leaf`."""
        if self.view:
            return self.view
        inside = leaf[self.stacked :]
        rows, columns = inside[: self.inputs], inside[self.inputs :]
        shape = (math.prod(columns) * len(self.ours),)
        if self.inputs:
            shape = (self.rows or math.prod(rows), *shape)
        return shape[::-1] if self.transpose else shape


def table(ours: str, theirs: str, rows: int = 0) -> list[Rule]:
    """A `TensorTable`."""
    return [Rule((f"{ours}/table",), f"{theirs}.weight", inputs=1, rows=rows)]


def norm(ours: str, theirs: str) -> list[Rule]:
    """A `LayerNorm`."""
    pairs = (("scale", "weight"), ("bias", "bias"))
    return [Rule((f"{ours}/{a}",), f"{theirs}.{b}") for a, b in pairs]


def dense(
    ours: str | Sequence[str], theirs: str, *, inputs: int = 1, transpose: bool
) -> list[Rule]:
    """A `Dense`, or several that the file joins."""
    names = [ours] if isinstance(ours, str) else ours
    kernels, biases = (
        tuple(f"{name}/{leaf}" for name in names) for leaf in ("kernel", "bias")
    )
    return [
        Rule(kernels, f"{theirs}.weight", inputs, transpose),
        Rule(biases, f"{theirs}.bias"),
    ]


class TensorTable:
    """Rules that fit a certain model.

    Args:
        rules: of its family.
        shapes: its parameters, or the part of them that a file has.

    Raises:
        ValueError: the rules do not cover the parameters, or name others.
    """

    def __init__(self, rules: Iterable[Rule], shapes: Any):
        self._tree = shapes
        self._leaves = dict(leaves(shapes))
        self._rules = list(rules)
        pairs = [(re.escape(path), r) for r in self._rules for path in r.ours]
        match(pairs, shapes)
        self._at = {
            rule.theirs.format(*at): (rule, at)
            for rule in self._rules
            for at in self._places(rule)
        }

    def _shape(self, rule: Rule) -> tuple[int, ...]:
        return tuple(self._leaves[rule.ours[0]].shape)

    def _places(self, rule: Rule) -> Iterable[tuple[int, ...]]:
        return np.ndindex(*self._shape(rule)[: rule.stacked])

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor, layer after layer."""
        return {
            name: rule.shape(self._shape(rule)) for name, (rule, _) in self._at.items()
        }

    def leaves_of(self, name: str) -> tuple[str, ...]:
        """The paths of the leaves that a tensor is made of."""
        return self._at[name][0].ours

    def leaf_of(self, name: str) -> str:
        """What of ours a tensor is made of."""
        rule, at = self._at[name]
        return ", ".join(path + "".join(f"[{i}]" for i in at) for path in rule.ours)

    def tensor(self, name: str, leaf: Callable[[str], Any]) -> np.ndarray:
        """A tensor of the file, contiguous.

        Args:
            name: of the tensor.
            leaf: the whole leaf of a path: an array, or what gives one when indexed.
        """
        rule, at = self._at[name]
        shape = rule.shape(self._shape(rule))
        parts = []
        for path in rule.ours:
            part = np.asarray(leaf(path)[at])
            if rule.inputs:
                rows = math.prod(part.shape[: rule.inputs])
                part = part.reshape(rows, -1)[: rule.rows or None]
            elif not rule.view:
                part = part.reshape(-1)
            parts.append(part)
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        joined = transposed(joined) if rule.transpose else joined
        return np.ascontiguousarray(joined.reshape(shape))

    def params(self, read: Callable[[str], np.ndarray], place: Place) -> Any:
        """The parameter tree; `place` is given each leaf once, whole.

        Args:
            read: the tensor of a name, of the shape that `shapes` says.
            place: puts an array where the parameter of that path belongs.
        """
        placed: dict[str, Any] = {}
        for rule in self._rules:
            whole = [_room(self._leaves[path], rule) for path in rule.ours]
            for at in self._places(rule):
                array = read(rule.theirs.format(*at))
                array = transposed(array) if rule.transpose else array
                parts = np.split(array, len(whole), axis=-1)
                for leaf, part in zip(whole, parts, strict=True):
                    if rule.rows:
                        leaf[: rule.rows] = part
                    else:
                        leaf[at] = part.reshape(leaf[at].shape)
            for path in rule.ours:
                placed[path] = place(path, whole.pop(0))
        return map_with_path(lambda path, _: placed[path], self._tree)


def _room(leaf: Any, rule: Rule) -> np.ndarray:
    """For the values of a leaf; the padding of a table is zeros."""
    room = aligned(leaf.shape, leaf.dtype)
    if rule.rows:
        room[rule.rows :] = 0
    return room


def check(table: TensorTable, found: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare what a file must hold with what it does.

    Args:
        table: what it must.
        found: name → shape of what it does.
        what: the file and the model, for the message.

    Raises:
        UserError: they differ: each tensor that is on one side only (−, +) or has
            another shape (≠).
    """
    wanted = table.shapes
    lines = []
    for name, shape in wanted.items():
        ours = table.leaf_of(name)
        if name not in found:
            lines.append(f"  - {name}  {list(shape)}  ({ours}) is not in the file")
        elif found[name] != shape:
            lines.append(
                f"  ≠ {name}  {list(found[name])} in the file, {list(shape)} by its "
                f"config  ({ours})"
            )
    extra = [name for name in found if name not in wanted]
    lines += [f"  + {name}  {list(found[name])} has no use" for name in sorted(extra)]
    if not lines:
        return
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    if extra:
        hint = extra[0].rsplit(".", 1)[0].replace(".", r"\.")
        more.append(f"  --ignore '{hint}.*' leaves tensors out")
    raise UserError(f"{what}:\n" + "\n".join(lines[:_SHOWN] + more))
