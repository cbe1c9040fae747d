"""A run that does not fit in memory → other settings of it, compiled and measured."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from jaxlm.config import RunConfig
from jaxlm.memory import exhausted, program_bytes
from jaxlm.train.source import (
    OpenPhase,
    Run,
    open_phase,
    open_run,
    phases_of,
)
from jaxlm.types import UserError

_TIMES = (2, 4, 8)  # as many micro-batches as now
_SAMPLE = 64  # steps of a task among which the largest one is sought


def remedies(run: Run) -> str:
    """Which settings were compiled and fit, which do not, and which are untried."""
    limit, options = device_bytes(), _options(run)
    if limit is None or run.source.rebuilt is None:
        return f"untried: {', '.join(options)}, a smaller --batch"
    fit, large = [], []
    for flags, config in options.items():
        if fit and flags.startswith("--accumulate") and "--accumulate" in fit[-1]:
            continue  # one number of micro-batches that fits is enough
        needed = _needed(config, run.source.rebuilt)
        if needed is not None and needed <= limit:
            fit.append(f"{flags} ({needed / 1e9:.2f} of {limit / 1e9:.2f} GB)")
        else:
            large.append(flags)
    said = f"compiled, and fits: {', '.join(fit)}" if fit else "nothing tried fits"
    said += f"; compiled, and does not fit: {', '.join(large)}" if large else ""
    if any("accumulate" in each for each in fit):
        said += "; --accumulate takes another --workdir"
    return said if fit else f"{said}; untried: a smaller --batch, more devices"


def device_bytes() -> int | None:
    """The memory of the smallest device of this host; None if it has no limit."""
    stats = [each.memory_stats() or {} for each in jax.local_devices()]
    return min(each.get("bytes_limit", 0) for each in stats) or None


def _options(run: Run) -> dict[str, RunConfig]:
    """Flags → the config that they give, the least costly first."""
    levers: list[Any] = [{"remat": "full"}, *({"times": times} for times in _TIMES)]
    levers += [{"fsdp": run.mesh.size // run.mesh.shape["replica"]}]
    return dict(filter(None, (changed(run.config, **each) for each in levers)))


def changed(
    config: RunConfig,
    *,
    remat: str = "",
    times: int | float = 1,
    fsdp: int = 1,
    rows: int = 1,
) -> tuple[str, RunConfig] | None:
    """(flags, the config that they give), or None if they cannot be given.

    `times` as many micro-batches as now, parameters cut in `fsdp` parts, and a batch of
    `rows` times as many rows.
    """
    change: Any = dataclasses.replace
    flags: list[str] = []
    if config.remat == remat or (fsdp > 1 and not config.mesh.whole):
        return None
    if remat:
        flags, config = ["--remat", remat], change(config, remat=remat)
    for name, factor in (("batch", rows), ("accumulate", times)):
        if factor == 1:
            continue
        sizes = [int(getattr(each, name) * factor) for each in config.all_phases]
        new: dict[str, Any] = {name: sizes[0]}
        if name == "accumulate" and any(
            not size or each.batch % size
            for size, each in zip(sizes, config.all_phases, strict=True)
        ):
            return None
        for i, size in enumerate(sizes):
            flag = f"phases.{i}.{name}" if config.phases else name
            flags += [f"--{flag}", str(size)]
        if config.phases:
            pairs = zip(config.phases, sizes, strict=True)
            new = {"phases": tuple(change(x, **{name: size}) for x, size in pairs)}
        config = change(config, **new)
    if fsdp > 1:
        flags += ["--mesh.data", "1", "--mesh.fsdp", str(fsdp)]
        mesh = change(config.mesh, data=1, fsdp=fsdp)
        config = change(config, mesh=mesh)
    return (" ".join(flags), config) if flags else None


def _needed(config: RunConfig, rebuilt: Any) -> int | None:
    """Bytes of a step with a config; None if it cannot be compiled."""
    try:
        return step_bytes(open_run(config, rebuilt(config))[0])
    except UserError:
        return None
    except Exception as error:
        if not exhausted(error):
            raise
        return None


def step_bytes(run: Run) -> int:
    """The memory that a step takes on a device, by XLA's count; of the largest phase.

    Steps of a task differ in shape: the largest of its first ones is measured.
    """
    most = 0
    for number, begin, phase in phases_of(run.config):
        opened = open_phase(run, number, begin, phase)
        few = range(begin, min(phase.until, begin + _SAMPLE))
        read = map(opened.read, few if run.config.finetunes else few[:1])
        compiled = lower_step(run, opened, read).compile()
        most = max(most, program_bytes(compiled, run.mesh))
    return most


def lower_step(run: Run, opened: OpenPhase, read: Iterable[tuple[int, Any]]) -> Any:
    """The largest of the steps that take these batches, traced."""
    count, rows = max(read, key=lambda each: each[0] * opened.stream.length(each[1]))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), rows
    )
    with jax.sharding.use_abstract_mesh(run.mesh.abstract_mesh):
        batch = jax.tree.map(
            lambda x: x.update(sharding=run.sharding),
            jax.eval_shape(opened.stream.objective.transform, shapes),
        )
        return opened.train_step.lower(run.abstract, batch, run.seed)
