"""`jaxlm plan RECIPE --topology v5e:16x16`: compile for a machine that is not here."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from jaxlm.cli.arguments import Config, parse
from jaxlm.cli.runtime import native_output

if TYPE_CHECKING:
    from jaxlm.plan.plan import Advice, PhasePlan, Planned
    from jaxlm.plan.topologies import Topology

_FITS, _TOO_LARGE = 0, 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Compile a recipe's training steps for a machine that is not here: memory, bounds
    of a step, hours. Times are bounds of the compiled program, not measurements."""

    config: Config
    topology: str
    """v5e:16x16, v6e:4x4, v5p:4x4x4, 2xv5e:16x16 (two slices), h100:8."""
    json: bool = False
    """Print one JSON object."""


def run_plan(argv: list[str]) -> int:
    """The verb `plan`."""
    args = parse(Plan, argv)
    # What is here takes no part; programs for what is not cannot be read from a cache.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with native_output() as log:
        from jaxlm.plan.plan import advise, plan
        from jaxlm.plan.topologies import open_topology

        machine = open_topology(args.topology)
        found = plan(args.config, machine)
        tried = [] if found.phases else list(advise(args.config, machine, found))
        copies = _copies(log)
    name = f"{argv[0]} on {args.topology}"
    facts: dict[str, Any] = {
        "recipe": argv[0],
        "topology": args.topology,
        **_record(found, machine),
    }
    facts["advice"] = [{"flags": x.flags, **_record(x.found, machine)} for x in tried]
    if args.json:
        print(json.dumps(facts, indent=2))
    elif found.phases:
        _show(name, found.phases, facts, copies)
    else:
        memory = _gb(facts["memory_bytes"], facts["memory_limit_bytes"])
        held = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in found.memory.items())
        print(f"{name} does not fit: a chip needs {memory} ({held})")
        print(*(_advised(each, machine) for each in tried), sep="\n")
    return _FITS if found.phases else _TOO_LARGE


def _copies(log: BinaryIO) -> int:
    """How often XLA warned that it copies a whole array to cut it in another way."""
    log.seek(0)
    return log.read().lower().count(b"involuntary full rematerialization")


def _record(found: "Planned", machine: "Topology") -> dict[str, Any]:
    """The fields of the JSON object; those outside `phases` are of the longest one."""
    chips = len(machine.devices)
    facts: dict[str, Any] = {"chips": chips, "fits": bool(found.phases)}
    phases = [_phase(each, machine) for each in found.phases]
    if phases:
        longest = max(range(len(phases)), key=lambda i: found.phases[i].updates)
        facts |= phases[longest]
        for bound in ("serial", "hidden"):
            seconds = sum(x.updates * getattr(x, bound) for x in found.phases)
            facts[f"hours_{bound}"] = seconds / 3600
            facts[f"chip_hours_{bound}"] = chips * seconds / 3600
    facts = {"memory": found.memory} | facts | {"memory_bytes": found.needed}
    return facts | {"memory_limit_bytes": machine.chip.memory, "phases": phases}


def _phase(each: "PhasePlan", machine: "Topology") -> dict[str, Any]:
    from jaxlm.plan.roofline import collective

    collectives: dict[str, dict[str, float]] = {}
    for step in filter(collective, each.steps):
        none = dict.fromkeys(("count", "bytes", "seconds", "overlapped_seconds"), 0.0)
        total = collectives.setdefault(step.by, none)
        new = (step.times, step.moved, step.seconds, step.hidden)
        for name, value in zip(none, new, strict=True):
            total[name] += value
    compute = [x for x in each.steps if not collective(x)]
    kinds = ("matrix", "memory", "vector", "kernel")
    spent = {by: sum(x.seconds for x in compute if x.by == by) for by in kinds}
    return {
        "length": each.phase.length,
        "batch": each.phase.batch,
        "accumulate": each.phase.accumulate,
        "steps": each.updates,
        "rows_per_chip": each.rows,
        "memory": each.memory,
        "memory_bytes": sum(each.memory.values()),
        "flops": each.flops,
        "model_flops": each.model_flops,
        "hbm_bytes": sum(x.moved for x in compute),
        "collectives": collectives,
        "compute_seconds": each.compute,
        "compute_seconds_by": spent,
        "bound": "collectives"
        if each.network > each.compute
        else max(spent, key=lambda x: spent[x]),
        "collective_seconds": each.network,
        "step_seconds_serial": each.serial,
        "step_seconds_hidden": each.hidden,
        "step_seconds_scheduled": each.serial - sum(x.hidden for x in each.steps),
        "mfu_serial": each.flops / (machine.peak * each.serial),
        "mfu_hidden": each.flops / (machine.peak * each.hidden),
        "scaling": each.compute / each.serial,
        "unknown_kernels": sorted({x.unknown for x in compute if x.unknown}),
    }


def _gb(size: float, limit: float) -> str:
    return f"{size / 1e9:.2f} of {limit / 1e9:.2f} GB"


def _advised(each: "Advice", machine: "Topology") -> str:
    facts = _record(each.found, machine)
    memory = _gb(facts["memory_bytes"], facts["memory_limit_bytes"])
    if not facts["fits"]:
        return f"compiled, does not fit: {each.flags} ({memory})"
    return f"compiled, and fits: {each.flags} ({memory}, {_step(facts)})"


def _step(facts: dict[str, Any]) -> str:
    low, high = (facts[f"step_seconds_{x}"] * 1e3 for x in ("hidden", "serial"))
    return f"{low:.1f} to {high:.1f} ms a step"


def _show(
    name: str, phases: Sequence["PhasePlan"], facts: dict[str, Any], copies: int
) -> None:
    """Print one screen; a column for each phase."""
    every = facts["phases"]

    def line(what: str, *values: str) -> None:
        print(f"{what:<34}" + "".join(f"{value:>22}" for value in values).rstrip())

    def lines(what: str, key: str, scale: float, unit: str) -> None:
        line(what, *(f"{each[key] * scale:,.3g} {unit}" for each in every))

    print(f"{name}: {facts['chips']} chips, bounds of the compiled program\n")
    shape = "{steps:,} × {batch} × {length}"
    line("steps × rows × tokens", *(shape.format(**each) for each in every))
    line(
        "rows of a chip",
        *(f"{each['rows_per_chip']} × {each['accumulate']}" for each in every),
    )
    limit = facts["memory_limit_bytes"]
    line("memory", *(_gb(each["memory_bytes"], limit) for each in every))
    for part in every[0]["memory"]:
        line(f"  {part}", *(f"{x['memory'][part] / 1e6:,.1f} MB" for x in every))
    lines("matrix products", "flops", 1e-12, "TFLOP")
    lines("  of the model", "model_flops", 1e-12, "TFLOP")
    lines("HBM traffic", "hbm_bytes", 1e-9, "GB")
    lines("compute", "compute_seconds", 1e3, "ms")
    for by in every[0]["compute_seconds_by"]:
        spent = [each["compute_seconds_by"][by] * 1e3 for each in every]
        if any(spent):
            line(f"  bound by {by}", *(f"{each:,.3g} ms" for each in spent))
    lines("collectives", "collective_seconds", 1e3, "ms")
    for kind in sorted({kind for each in every for kind in each["collectives"]}):
        none = {"count": 0, "bytes": 0, "overlapped_seconds": 0}
        found = [each["collectives"].get(kind, none) for each in every]
        line(
            f"  {kind}",
            *(
                f"{x['count']:.0f} × {x['bytes'] / max(1, x['count']) / 1e6:,.3g} MB"
                for x in found
            ),
        )
    lines("step, collectives one by one", "step_seconds_serial", 1e3, "ms")
    lines("step, as scheduled", "step_seconds_scheduled", 1e3, "ms")
    lines("step, all collectives hidden", "step_seconds_hidden", 1e3, "ms")
    mfu = "{:.1%} to {:.1%}"
    line("MFU at most", *(mfu.format(x["mfu_serial"], x["mfu_hidden"]) for x in every))
    line("of the speed of as many lone chips", *(f"{x['scaling']:.0%}" for x in every))
    low, high = (facts[f"hours_{bound}"] for bound in ("hidden", "serial"))
    print(
        f"\nall steps: {low:,.3g} to {high:,.3g} hours at least, "
        f"{low * facts['chips']:,.3g} to {high * facts['chips']:,.3g} chip-hours"
    )
    if copies:
        print(f"XLA copies whole arrays {copies} times to cut them otherwise")
    for kernel in facts["unknown_kernels"]:
        print(f"the FLOP of the kernel {kernel} are not known: its bytes are counted")
