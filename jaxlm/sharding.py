"""Devices → mesh; parameter paths → shardings; rows of a batch → devices.

Four axes always exist, of size 1 if a run does not use them:

    replica   slices of a multi-slice job        batch
    data      copies of the model in a step      batch, and the state as it rests
    fsdp      parts of parameters and optimiser  batch, embed
    tensor    parts of one layer                 heads, mlp, vocab

Each parameter has a rule, which names its logical axes; `MESH_AXIS_OF` maps a logical
axis to a mesh axis. If that does not divide the dimension, another one is cut.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental.mesh_utils import (
    create_device_mesh,
    create_hybrid_device_mesh,
)
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlm.config import MeshConfig, RunConfig
from jaxlm.mesh import AXES, BATCH, batch_axes
from jaxlm.tree import map_with_path, match
from jaxlm.types import UserError

_AUTO = (AxisType.Auto,) * len(AXES)
_SMALL = 1 << 16  # numbers of a leaf that may stay whole on every device

MESH_AXIS_OF = {
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    "kv": None,
    None: None,
}

# Every parameter of every family matches exactly one rule by the end of its path, so
# that a module may hold several networks.
_RULES = (
    (r"embed/token/table", ("vocab", "embed")),
    (r"embed/(position|token_type)/table", (None, "embed")),
    (r"(embed/norm|mlm/norm|final_norm)/(scale|bias)", (None,)),
    (r"layers/attention/(query|key|value)/kernel", ("layers", "embed", "heads", "kv")),
    (r"layers/attention/(query|key|value)/bias", ("layers", "heads", "kv")),
    (r"layers/attention/out/kernel", ("layers", "heads", "kv", "embed")),
    (r"layers/mlp/(wi|gate)/kernel", ("layers", "embed", "mlp")),
    (r"layers/mlp/(wi|gate)/bias", ("layers", "mlp")),
    (r"layers/mlp/wo/kernel", ("layers", "mlp", "embed")),
    (r"layers/((attention/out|mlp/wo)/bias|.*_norm/(scale|bias))", ("layers", None)),
    (r"(pooler|projection|mlm/dense|nsp|\w+_head)/kernel", ("embed", None)),
    (r"(pooler|projection|mlm/dense|nsp|\w+_head)/bias", (None,)),
    (r"mlm/bias", ("vocab",)),
    (r"task/kernel", ("embed", None)),
    (r"task/bias", (None,)),
    (r"mix(_out)?/weights", (None,)),
    (r"mix(_out)?/scale", ()),
    (r"body/layer_\d+/kernel", (None, None, None, "mlp")),
    (r"body/layer_\d+/bias", (None, None, "mlp")),
    (r"attention/kernel", (None,)),
    # ELMo: the second axis of its layers is the direction.
    (r"words/embed/table", (None, None)),
    (r"words/filters_\d+/kernel", (None, None, None)),
    (r"words/filters_\d+/bias", (None,)),
    (r"words/highways/(carry|transform)/kernel", ("layers", "embed", None)),
    (r"words/highways/(carry|transform)/bias", ("layers", None)),
    (r"layers/kernel", ("layers", None, "embed", None, "mlp")),
    (r"layers/bias", ("layers", None, None, "mlp")),
    (r"layers/projection", ("layers", None, "mlp", "embed")),
    (r"softmax/table", ("vocab", "embed")),
    (r"softmax/bias", ("vocab",)),
)
RULES = tuple((rf"(.*/)?({pattern})", axes) for pattern, axes in _RULES)


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """The mesh of all devices, or of the first ones if the sizes ask for fewer.

    `devices` are those of this job, or of a machine that is not here (`plan/`). Slices
    of TPUs lie along `replica`, so that only gradients go from one to another.
    """
    devices = list(jax.devices() if devices is None else devices)
    tpu = devices[0].platform == "tpu"
    slices: dict[int, list[Any]] = {}
    for each in devices:
        number = getattr(each, "slice_index", 0) if tpu else 0
        slices.setdefault(number, []).append(each)
    sizes = _sizes(config, len(devices), len(slices))
    inside = (sizes[0] // len(slices), *sizes[1:])
    held = [each for part in slices.values() for each in part[: math.prod(inside)]]
    across = (len(slices), 1, 1, 1)
    try:
        if len(slices) == 1:
            grid = create_device_mesh(inside, held, allow_split_physical_axes=True)
        else:
            grid = create_hybrid_device_mesh(
                inside, across, held, allow_split_physical_axes=True
            )
    except (AssertionError, NotImplementedError, ValueError) as error:
        shape = " x ".join(map(str, inside))
        said = f"the chips of a slice do not form a mesh of {shape}"
        raise UserError(f"{said} (replica x data x fsdp x tensor)") from error
    return Mesh(grid, AXES, axis_types=_AUTO)


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """A mesh without devices, to compile for another machine."""
    return AbstractMesh(_sizes(config, devices, 1), AXES, axis_types=_AUTO)


def _sizes(config: MeshConfig, devices: int, slices: int) -> tuple[int, ...]:
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes[0] == 1:
        sizes[0] = slices
    asked = " ".join(f"mesh.{a} = {s}" for a, s in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"{asked}: sizes are positive, at most one is -1 (the rest)")
    fits = [n for n in range(slices, devices + 1, slices) if devices % n == 0]
    misfit = f"does not fit {slices} slices: pass one of {', '.join(map(str, fits))}"
    if sizes[0] != -1 and sizes[0] % slices:
        raise UserError(f"mesh.replica = {sizes[0]} {misfit}")
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        if devices % known:
            raise UserError(f"{asked}: {known} does not divide {devices} devices")
        sizes[sizes.index(-1)] = devices // known
    if math.prod(sizes) > devices:
        raise UserError(f"{asked}: {math.prod(sizes)} devices asked, {devices} here")
    if sizes[0] % slices:  # it was the rest
        raise UserError(f"mesh.replica = {sizes[0]} {misfit}")
    return tuple(sizes)


def mesh_notes(config: MeshConfig, mesh: Mesh) -> list[str]:
    """What a run says at its start about slices, if the config does not name them."""
    if (count := mesh.shape["replica"]) == 1 or config.replica != 1:
        return []
    return [f"{count} slices: --mesh.replica {count}, so only gradients cross slices"]


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of a batch: its leading axis is cut over all batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """The number of parts that the mesh cuts the rows of a batch into."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def local_rows(sharding: jax.sharding.Sharding, batch: int) -> np.ndarray:
    """The numbers of the batch's rows that this host's devices hold, ascending."""
    slices = sharding.addressable_devices_indices_map((batch,)).values()
    held = {row for index in slices if index for row in range(batch)[index[0]]}
    return np.array(sorted(held), np.int64)


def to_devices(
    rows: Any, local: np.ndarray, sharding: jax.sharding.Sharding, batch: int
) -> Any:
    """A tree of global arrays [batch, ...] from this host's rows [len(local), ...].

    `local` is from `local_rows`, and `sharding` from `batch_sharding`.
    """

    def place(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return array[np.searchsorted(local, range(batch)[index[0]])]

        return jax.make_array_from_callback((batch, *array.shape[1:]), sharding, part)

    return jax.tree.map(place, rows)


def check_batch(config: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raise a UserError if the mesh does not divide a micro-batch of some phase."""
    parts = batch_parts(mesh)
    for phase in config.all_phases:
        micro = phase.batch // phase.accumulate
        if micro % parts:
            below, above = (micro // parts) * parts, -(-micro // parts) * parts
            sizes = [n * phase.accumulate for n in (below, above) if n]
            near = " or ".join(map(str, sizes))
            raise UserError(
                f"micro-batch of {micro} rows (batch {phase.batch} / accumulate "
                f"{phase.accumulate}) does not divide over {parts} devices "
                f"(mesh replica x data x fsdp): take --batch {near}, or --mesh.data"
            )
        share, unit = config.causal_share(phase), parts * phase.accumulate
        count = round(phase.batch * share)
        if share and (count % unit or not 0 < count < phase.batch + (share == 1)):
            near = min(max(1, round(count / unit)) * unit, phase.batch - unit)
            what = f"{share:g} of {phase.batch} rows are {count}"
            must = f"they must be a multiple of {unit} (devices x accumulate)"
            remedy = f"pass {near / phase.batch:g}, or a larger --batch"
            raise UserError(f"causal_share = {what}, {must}: {remedy}")


def stacked(params: Any) -> Any:
    """A tree with True for each parameter whose first axis is the layers."""
    logical = match(RULES, params, families=True)
    return jax.tree.map(lambda _, axes: axes[:1] == ("layers",), params, logical)


def param_shardings(
    mesh: Mesh | AbstractMesh, params: Any, *, whole: bool = False
) -> Any:
    """A tree with the NamedSharding of each parameter in the state, by `RULES`.

    `whole`: as a step reads them, with a copy for each place on the axis `data`; the
    state has one copy in all (ZeRO).
    """

    def sharding(path: str, leaf: Any, logical: tuple[str | None, ...]) -> Any:
        spec: list[tuple[str, ...]] = [()] * leaf.ndim
        for at, axis in enumerate(map(MESH_AXIS_OF.get, logical)):
            if axis and mesh.shape[axis] > 1:
                _cut(spec, mesh, path, leaf.shape, logical, axis, at)
        if not whole and mesh.shape["data"] > 1:
            _cut(spec, mesh, path, leaf.shape, logical, "data")
        return NamedSharding(mesh, PartitionSpec(*(names or None for names in spec)))

    logical = match(RULES, params, families=True)
    return map_with_path(sharding, params, logical)


def _cut(
    spec: list[tuple[str, ...]],
    mesh: Any,
    path: str,
    shape: tuple[int, ...],
    logical: tuple[str | None, ...],
    axis: str,
    wanted: int | None = None,
) -> None:
    """Cut a leaf over a mesh axis: in the dimension `wanted`, or in the best that the
    axis divides. A small leaf that it does not divide stays whole."""

    def held(at: int) -> list[int]:
        """The shape on a device if dimension `at` is cut; 0 if that does not divide."""
        cuts = [(*names, axis) if n == at else names for n, names in enumerate(spec)]
        parts = [math.prod(mesh.shape[name] for name in names) for names in cuts]
        return [0 if n % p else n // p for n, p in zip(shape, parts, strict=True)]

    layers = logical[:1] == ("layers",)  # read one by one, so never cut
    divided = [at for at in range(int(layers), len(shape)) if all(held(at))]
    if wanted in divided:
        best = wanted
    elif math.prod(shape) < _SMALL or (axis == "data" and not divided):
        return
    elif not divided:
        raise UserError(
            f"mesh.{axis} = {mesh.shape[axis]} divides no dimension of {path} "
            f"{list(shape)}: take another size"
        )
    else:
        best = min(divided, key=lambda at: _padded(held(at)))
    spec[best] = (*spec[best], axis)


def _padded(shape: list[int]) -> int:
    """The numbers that an array takes in a TPU's tiles of 8 × 128."""
    *rest, low, high = [1, 1, *shape]
    return math.prod(rest) * -(-low // 8) * 8 * -(-high // 128) * 128


def gathered(params: Any) -> Any:
    """Parameters of the state as a step reads them; see `param_shardings`."""
    return _constrained(params, whole=True)


def scattered(grads: Any) -> Any:
    """Gradients, cut as the state's parameters: a device holds the sums of its part."""
    return _constrained(grads, whole=False)


def state_spec(path: str, parameter: Any) -> PartitionSpec:
    """How the state cuts a parameter of `path`, or each layer of a stack of them."""
    mesh, stacked = jax.sharding.get_abstract_mesh(), "layers" in path.split("/")
    if not mesh.shape:
        return PartitionSpec()
    shape = jax.ShapeDtypeStruct((1,) * stacked + parameter.shape, parameter.dtype)
    return PartitionSpec(*param_shardings(mesh, {path: shape})[path].spec[stacked:])


def summed(
    function: Callable[..., jax.Array], spec: PartitionSpec, *rows: jax.Array
) -> jax.Array:
    """function(*rows), which sums over rows, cut as `spec` says.

    Each device adds up its own rows. Then devices exchange their sums, at once and in
    the dtype of the result; each receives only its part.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = [axis for axis in batch_axes() if sizes.get(axis, 1) > 1]
    if not axes:
        return function(*rows)
    if sizes["tensor"] > 1 or len(rows[0]) % math.prod(sizes[axis] for axis in axes):
        return jax.lax.with_sharding_constraint(function(*rows), spec)
    cuts = [(names,) if isinstance(names, str) else names or () for names in spec]
    cuts = [tuple(axis for axis in names if axis in axes) for names in cuts]
    rest = tuple(axis for axis in axes if axis not in itertools.chain(*cuts))

    def scatter(y: jax.Array, at: int, names: tuple[str, ...]) -> jax.Array:
        shape, parts = y.shape, math.prod(sizes[name] for name in names)
        if not at:  # apart from the tiles of a TPU, which it then need not lay out anew
            few = len(y) // parts % 8 and y.size % (parts * 128) == 0
            y = y.reshape(parts, -1, 128 if few else y[0].size)
        y = jax.lax.psum_scatter(y, names, scatter_dimension=at, tiled=True)
        return y if at else y.reshape(-1, *shape[1:])

    def part(*rows: jax.Array) -> jax.Array:
        y = function(*rows)
        for at, names in enumerate(cuts):
            y = scatter(y, at, names) if names else y
        return jax.lax.psum(y, rest) if rest else y

    return jax.shard_map(
        part,
        in_specs=PartitionSpec(tuple(axes)),
        out_specs=PartitionSpec(*(names or None for names in cuts)),
        axis_names=set(axes),
    )(*rows)


def by_replica(function: Callable[..., Any], params: Any, *rows: Any) -> Any:
    """function(params, *rows) → (gradients, sums, results by rows): each replica adds
    up what its own rows give, and replicas exchange gradients and sums once."""
    if jax.sharding.get_abstract_mesh().shape.get("replica", 1) == 1:
        return function(params, *rows)

    def part(params: Any, *rows: Any) -> Any:
        grads, sums, results = function(params, *rows)
        return *jax.lax.psum((scattered(grads), sums), "replica"), results

    cut, whole = PartitionSpec("replica"), PartitionSpec()
    return jax.shard_map(
        part,
        in_specs=(whole, *(cut for _ in rows)),
        out_specs=(whole, whole, cut),
        axis_names={"replica"},
        check_vma=False,
    )(params, *rows)


def _constrained(params: Any, whole: bool) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("data", 1) == 1:
        return params
    shardings = param_shardings(mesh, params, whole=whole)
    return jax.lax.with_sharding_constraint(params, shardings)


def opt_state_shardings(
    mesh: Mesh | AbstractMesh, optimizer: Any, opt_state: Any, params_shardings: Any
) -> Any:
    """Shardings of the optimiser state: moments as their parameters, the rest whole."""

    def frozen(moment: Any) -> bool:
        return isinstance(moment, optax.MaskedNode)  # it has none

    return optax.tree.map_params(
        optimizer,
        lambda moment, sharding: moment if frozen(moment) else sharding,
        opt_state,
        params_shardings,
        transform_non_params=lambda _: replicated(mesh),  # type: ignore[arg-type]
        is_leaf=frozen,
    )
