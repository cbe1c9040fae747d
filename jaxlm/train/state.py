"""The state that a run carries from step to step, initialised with its shardings."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int

from jaxlm.checkpoints import StoredLeaf, read_leaves
from jaxlm.keys import Ids, key_for
from jaxlm.sharding import (
    batch_sharding,
    opt_state_shardings,
    param_shardings,
    replicated,
)
from jaxlm.tree import differences, lacks_padding, leaves, map_with_path
from jaxlm.types import UserError

# Absolute value of a parameter in a sound state; published models stay far below.
LARGEST = 1e4


class TrainState(NamedTuple):
    """The whole state; random keys and the data position are functions of `step`."""

    step: Int[Array, ""]  # updates, skipped ones included
    params: Any
    opt_state: Any
    skipped: Int[Array, ""]  # steps that changed nothing, see `step.py`
    skipped_in_row: Int[Array, ""]
    carry: Any = ()  # ELMo: the LSTMs' state after the last batch, for each of its rows


def init_params(module: Any, seed: Ids) -> Any:
    """Random parameters."""
    return module.init(key_for(seed, "init"), *module.example())["params"]


def abstract_params(module: Any) -> Any:
    """The shapes of the parameters."""
    return _shapes(module)


# A verb asks for them several times, and each trace takes a third of a second.
_shapes: Callable[[Any], Any] = functools.cache(
    lambda module: jax.eval_shape(lambda: init_params(module, 0))
)


def abstract_state(
    module: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    *,
    seed: int,
    zero_carry: Callable[[], Any] = tuple,
) -> tuple[Callable[[], TrainState], TrainState]:
    """(a function that initialises the state, the state's shapes with shardings)."""

    def make(seed: Ids) -> TrainState:
        params = init_params(module, seed)
        zero = jnp.zeros((), jnp.int32)
        opt_state = optimizer.init(params)
        return TrainState(zero, params, opt_state, zero, zero, zero_carry())

    given = np.asarray(seed, np.uint32)
    shapes = jax.eval_shape(make, given)
    params = param_shardings(mesh, shapes.params)
    whole: TrainState = jax.tree.map(lambda _: replicated(mesh), shapes)
    shardings = whole._replace(
        params=params,
        opt_state=opt_state_shardings(mesh, optimizer, shapes.opt_state, params),
        carry=jax.tree.map(lambda _: batch_sharding(mesh), shapes.carry),
    )
    abstract = jax.tree.map(
        lambda leaf, sharding: leaf.update(sharding=sharding), shapes, shardings
    )
    return functools.partial(jax.jit(make, out_shardings=shardings), given), abstract


class Pretrained(NamedTuple):
    """Parameters to start a run from, in memory or on disk."""

    origin: str  # the directory and step, for messages
    params: Any


class NewParams(NamedTuple):
    """Parameters that a task does not take from a pretrained model."""

    fresh: Collection[str]  # paths of parameters that start at random
    known_rows: Mapping[str, int]  # path of a table that grows → its pretrained rows


def merge(
    pretrained: Pretrained, abstract: Any, random: Any, new: NewParams | None = None
) -> tuple[Any, list[str]]:
    """(pretrained parameters, or random ones if there are none; notes on both).

    Each is placed by the sharding in `abstract`. A different shape is an error. So is a
    pretrained parameter that the model lacks, unless there is `new` (in a task).
    """
    fresh, known_rows = new or NewParams((), {})
    found = {
        path: leaf for path, leaf in leaves(pretrained.params) if path not in fresh
    }
    marked: dict[str, dict[str, str]] = {"-": {}, "+": {}, "≠": {}}
    for line in differences(dict(leaves(abstract)), found):
        mark, path, *_ = line.split()
        if path not in known_rows:
            marked[mark][path] = line
    problems = [*marked["≠"].values(), *(() if new else marked["+"].values())]
    if problems:
        head = f"--init {pretrained.origin} does not fit this config:"
        raise UserError("\n".join([head, *problems]))

    shapes = dict(leaves(abstract))
    # A host reads its parts of leaves on disk; those that change shape are read whole.
    parts = {
        path: shapes[path].sharding
        for path, leaf in found.items()
        if isinstance(leaf, StoredLeaf) and path not in known_rows
        if path in shapes and leaf.shape == shapes[path].shape
    }
    read = read_leaves(found, parts, dict.fromkeys(parts, LARGEST)) if parts else {}

    def place(path: str, mine: Any, shape: Any) -> Any:
        if path in read or path not in found:
            return read.get(path, mine)
        theirs = np.asarray(found[path])
        if not np.all(np.abs(theirs) <= LARGEST):
            raise UserError(
                f"--init {pretrained.origin}: {path} has values that are not finite or "
                f"above {LARGEST:g}"
            )
        if lacks_padding(path, shape, theirs):
            more = [(0, shape.shape[0] - len(theirs)), *[(0, 0)] * (theirs.ndim - 1)]
            theirs = np.pad(theirs, more)
        if path in known_rows:
            rows = known_rows[path]
            return jax.device_put(mine.at[:rows].set(theirs[:rows]), shape.sharding)
        return jax.make_array_from_callback(
            theirs.shape, shape.sharding, lambda index: theirs[index]
        )

    grown = [f"{path} from row {n} on" for path, n in known_rows.items()]
    notes = [f"parameters of {pretrained.origin}"]
    if at_random := [*marked["-"], *grown]:
        notes.append(f"initialised at random: {', '.join(at_random)}")
    # A part is named as a whole, unless some of it is used.
    used = {path.split("/")[0] for path in found.keys() - marked["+"].keys()}
    tops = {path: path.split("/")[0] for path in marked["+"]}
    if unused := dict.fromkeys(p if top in used else top for p, top in tops.items()):
        notes.append(f"not used: {', '.join(unused)}")
    return map_with_path(place, random, abstract), notes
