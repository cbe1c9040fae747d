"""The two-way table of a family: leaves of a parameter tree ↔ tensors of a file.

    table = TensorTable(rules, shapes)    total on both sides, or an error
    table.shapes                          what the file must hold, by name
    table.tensor(name, whole)             leaves → one tensor of the file
    table.params(read, place)             tensors → the parameter tree
    ModelFile(config, table, read)        a model as tensors, wherever they come from

A rule says which leaf is which tensor, for both reading and writing. It covers five
differences: a leaf of all layers is a tensor for each layer ("{0}" in the name is the
index on the leaf's first axis), axes of heads are merged, torch stores a kernel as
outputs × inputs, GPTs join query, key and value, and RoFormer's rope turns neighbouring
channels where ours turns channels c and c + K/2.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlm.config.model import ModelConfig
from jaxlm.memory import aligned, transposed
from jaxlm.tree import is_padded, leaves, map_with_path, match
from jaxlm.types import UserError

Place = Callable[[str, np.ndarray], Any]  # path, array → the parameter where it belongs
Names = Mapping[Any, str]  # our module, or a tuple of several → their module
HEADS = ("mlm", "nsp")  # parts that a file may lack
_SHOWN = 20  # lines of a difference


class Rule(NamedTuple):
    """A tensor (or a tensor for each layer) and the leaves that it is made of."""

    ours: tuple[str, ...]  # several are joined along the last axis
    theirs: str  # "{0}", "{1}": index along the first axes of the leaf
    inputs: int = 0  # how many of the other axes are a matrix's rows; 0: a vector
    transpose: bool = False
    rows: int = 0  # rows of a table that are not padding; 0: all
    view: tuple[int, ...] = ()  # the tensor's shape where it is neither
    first: int = 0  # the first layer that has the tensor; earlier leaves are ones
    interleaved: bool = False  # pairs of channels of the last axis are neighbours

    @property
    def stacked(self) -> int:
        """The number of the leaf's first axes that are indices in the name."""
        return len(set(re.findall(r"{\d}", self.theirs)))

    def shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor, if each of its leaves has shape `leaf`."""
        if self.view:
            return self.view
        inside = leaf[self.stacked :]
        rows, columns = inside[: self.inputs], inside[self.inputs :]
        shape = (math.prod(columns) * len(self.ours),)
        if self.inputs:
            shape = (self.rows or math.prod(rows), *shape)
        elif self.rows:
            shape = (self.rows,)
        return shape[::-1] if self.transpose else shape

    def channels(self, width: int) -> np.ndarray:
        """The order of our channels of a head in the tensor."""
        order = np.arange(width)
        return order.reshape(2, -1).T.ravel() if self.interleaved else order


def module_rules(
    names: Names, *, transpose: bool, vocab_size: int = 0, biases: bool = True
) -> list[Rule]:
    """The rules for the leaves of modules; the path of a leaf tells its kind.

    `embed/…` is a table, `…norm` a LayerNorm, `…/bias` a single vector, and anything
    else a dense layer; the modules of a tuple are joined. `transpose` applies to
    kernels, `vocab_size` to the token table. Without `biases`, only single vectors are.
    """
    rules = []
    for ours, theirs in names.items():
        modules = (ours,) if isinstance(ours, str) else ours
        weight, bias = f"{theirs}.weight", f"{theirs}.bias"
        name = modules[0]
        if name.endswith("norm"):
            rules += [Rule((f"{name}/scale",), weight)]
            rules += [Rule((f"{name}/bias",), bias)] * biases
        elif name.endswith("/bias"):
            rules.append(Rule((name,), theirs, rows=vocab_size * is_padded(name)))
        elif name.startswith("embed/"):
            path = f"{name}/table"
            rows = vocab_size * is_padded(path)
            rules.append(Rule((path,), weight, inputs=1, rows=rows))
        else:
            kernels = tuple(f"{module}/kernel" for module in modules)
            inputs = 2 if name.endswith("/out") else 1
            rules.append(Rule(kernels, weight, inputs, transpose))
            vectors = tuple(f"{module}/bias" for module in modules)
            rules += [Rule(vectors, bias)] * biases
    return rules


class TensorTable:
    """The rules for one model, checked against its parameters.

    `shapes` has the parameters, or those that a file has. ValueError if a rule names
    another parameter, or if no rule covers one.
    """

    def __init__(self, rules: Iterable[Rule], shapes: Any):
        self.tree, self._rules = shapes, list(rules)
        self._leaves = dict(leaves(shapes))
        match([(re.escape(path), r) for r in self._rules for path in r.ours], shapes)
        self._at = {
            rule.theirs.format(*at): (rule, at)
            for rule in self._rules
            for at in self._indices(rule)
        }
        # Name → shape of every tensor, rule after rule.
        self.shapes: dict[str, tuple[int, ...]] = {
            name: rule.shape(self._leaves[rule.ours[0]].shape)
            for name, (rule, _) in self._at.items()
        }

    def _indices(self, rule: Rule) -> Iterable[tuple[int, ...]]:
        every = np.ndindex(*self._leaves[rule.ours[0]].shape[: rule.stacked])
        return (at for at in every if not at or at[0] >= rule.first)

    def leaves_of(self, name: str) -> tuple[str, ...]:
        """The paths of the leaves that a tensor is made of."""
        return self._at[name][0].ours

    def leaf_of(self, name: str) -> str:
        """The leaves that a tensor is made of, as readable text."""
        rule, at = self._at[name]
        return ", ".join(path + "".join(f"[{i}]" for i in at) for path in rule.ours)

    def tensor(self, name: str, whole: Mapping[str, Any]) -> np.ndarray:
        """A tensor of the file, contiguous.

        `whole` has the leaves that the tensor is made of, as arrays or as objects that
        return arrays when indexed.
        """
        rule, at = self._at[name]
        parts = []
        for path in rule.ours:
            part = np.asarray(whole[path][at])
            if rule.interleaved:
                part = part[..., rule.channels(part.shape[-1])]
            if rule.inputs:
                rows = math.prod(part.shape[: rule.inputs])
                part = part.reshape(rows, -1)[: rule.rows or None]
            elif not rule.view:
                part = part.reshape(-1)[: rule.rows or None]
            parts.append(part)
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        joined = transposed(joined) if rule.transpose else joined
        return np.ascontiguousarray(joined.reshape(self.shapes[name]))

    def params(self, read: Callable[[str], np.ndarray], place: Place) -> Any:
        """The parameter tree; `read` returns the tensor with a given name.

        `place` is called once for each leaf, with the whole leaf.
        """
        placed: dict[str, Any] = {}
        for rule in self._rules:
            shapes = [self._leaves[path] for path in rule.ours]
            whole = [aligned(each.shape, each.dtype) for each in shapes]
            if rule.rows:  # those that pad a table are zeros
                whole[0][rule.rows :] = 0
            if rule.first:
                whole[0][: rule.first] = 1
            for at in self._indices(rule):
                array = read(rule.theirs.format(*at))
                array = transposed(array) if rule.transpose else array
                parts = np.split(array, len(whole), axis=-1)
                for leaf, part in zip(whole, parts, strict=True):
                    room = leaf[: rule.rows] if rule.rows else leaf[at]
                    part = part.reshape(room.shape)
                    if rule.interleaved:
                        room[..., rule.channels(part.shape[-1])] = part
                    else:
                        room[...] = part
            for path in rule.ours:
                placed[path] = place(path, whole.pop(0))
        return map_with_path(lambda path, _: placed[path], self.tree)

    def check(self, found: Mapping[str, tuple[int, ...]], what: str) -> None:
        """Compare the expected tensors with the shapes that were `found` in a file.

        A UserError lists each tensor that is on one side only (−, +) or has another
        shape (≠); `what` names the file and the model.
        """
        lines = []
        for name, shape in self.shapes.items():
            ours = self.leaf_of(name)
            if name not in found:
                lines.append(f"  - {name}  {list(shape)}  ({ours}) is not in the file")
            elif found[name] != shape:
                lines.append(
                    f"  ≠ {name}  {list(found[name])} in the file, {list(shape)} by "
                    f"its config  ({ours})"
                )
        extra = [name for name in found if name not in self.shapes]
        lines += [
            f"  + {each}  {list(found[each])} has no use" for each in sorted(extra)
        ]
        if not lines:
            return
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        if unused := self._unused(found, extra):
            ignore = " ".join(f"'{each}.*'" for each in unused)
            more.append(f"  jaxlm import --ignore {ignore} leaves tensors out")
        raise UserError(f"{what}:\n" + "\n".join(lines[:_SHOWN] + more))

    def _unused(self, found: Mapping[str, Any], extra: list[str]) -> list[str]:
        """Patterns of tensors to ignore: one of `extra`, and a head found in part."""
        part = {name: self.leaf_of(name).partition("/")[0] for name in self.shapes}
        lacking = {part[name] for name in part.keys() - found.keys()} & {*HEADS}
        head = [name for name in part if name in found and part[name] in lacking]
        modules = [extra[0].rpartition(".")[0]] if extra else []
        modules += [name.partition(".")[0] for name in head]
        return [each.replace(".", r"\.") for each in dict.fromkeys(modules)]


class ModelFile(NamedTuple):
    """A model whose tensors are read on request."""

    config: ModelConfig
    table: TensorTable
    read: Callable[[str], np.ndarray]  # by the table's names
    missing: tuple[str, ...] = ()  # heads that it lacks

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
    ) -> "ModelFile":
        """The `ModelFile` of parameters in memory or on disk.

        A leaf on disk is read for its first tensor, and held until a tensor of another
        leaf is read.
        """
        flat, held = dict(leaves(params)), {}

        def read(name: str) -> np.ndarray:
            paths = table.leaves_of(name)
            if tuple(held) != paths:
                held.clear()  # first, so that two stacks are never in memory
                held.update({path: np.asarray(flat[path]) for path in paths})
            return table.tensor(name, held)

        return cls(config, table, read, missing)
