"""`jaxlm plan RECIPE --topology v5e:16x16`: compile for a machine that is not here."""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import native_output
from jaxlm.config import RunConfig

if TYPE_CHECKING:
    from jaxlm.plan.plan import Planned
    from jaxlm.plan.topologies import Topology

_FITS, _TOO_LARGE = 0, 3
_UNITS = {
    "matrix": "matrix products",
    "memory": "HBM traffic",
    "vector": "vector units",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Compile a recipe's training steps for a machine that is not here: memory, bounds
    of a step, hours. Times are bounds of the compiled program, not measurements."""

    config: RunConfig
    topology: tuple[str, ...]
    """v5e:16x16, v6e:4x4, v5p:4x4x4, 2xv5e:16x16 (two slices), h100:8; of several, the
    speed of a chip in each is compared with the first."""
    advice: bool = False
    """Compile other settings, too: those that may fit, or that may be faster."""
    json: bool = False
    """Print one JSON object; of several topologies, a list."""


def run_plan(argv: list[str]) -> int:
    """The verb `plan`."""
    args = parse(Plan, argv)
    # What is here takes no part; programs for what is not cannot be read from a cache.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    every: list[dict[str, Any]] = []
    for topology in dict.fromkeys(args.topology):
        with native_output() as log:
            from jaxlm.plan.plan import advise, candidates, plan
            from jaxlm.plan.topologies import open_topology

            machine = open_topology(topology)
            found = plan(args.config, machine)
            facts = {"recipe": argv[0], "topology": topology, **_record(found, machine)}
            if every:
                facts |= _efficiency(every[0], facts)
            every.append(facts)
            if not args.json:
                _show(facts, _copies(log))
            facts["advice"] = []
            for each in advise(args.config, machine, found) if args.advice else ():
                new = {"flags": each.flags, **_record(each.found, machine)}
                facts["advice"].append(new)
                if not args.json:
                    print(_advised(new), flush=True)
            if not (found.phases or args.advice or args.json):
                tries = candidates(args.config, machine, found)
                flags = [flags for flags, _ in tries[:3]]
                hint = "--advice compiles what may fit:" if flags else _NOTHING
                print(hint, *flags, sep="\n  ")
    if args.json:
        print(json.dumps(every if every[1:] else every[0], indent=2))
    return _FITS if all(each["fits"] for each in every) else _TOO_LARGE


_NOTHING = "neither --remat, --accumulate nor --mesh.fsdp can help: take more chips"


def _copies(log: BinaryIO) -> int:
    """How often XLA warned that it copies a whole array to cut it in another way."""
    log.seek(0)
    return log.read().lower().count(b"involuntary full rematerialization")


def _record(found: "Planned", machine: "Topology") -> dict[str, Any]:
    """The fields of the JSON object; those outside `phases` are of the longest one."""
    chips = len(machine.devices)
    facts: dict[str, Any] = {"chips": chips, "slices": machine.slices}
    facts["fits"] = bool(found.phases)
    facts["memory"] = found.memory
    if found.phases:
        facts |= max(found.phases, key=lambda each: each["steps"])
        for bound in ("serial", "hidden"):
            steps = ((x["steps"], x[f"step_seconds_{bound}"]) for x in found.phases)
            seconds = sum(count * seconds for count, seconds in steps)
            facts[f"hours_{bound}"] = seconds / 3600
            facts[f"chip_hours_{bound}"] = chips * seconds / 3600
    facts |= {"memory_bytes": found.needed, "memory_limit_bytes": machine.chip.memory}
    return facts | {"phases": list(found.phases)}


def _efficiency(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What a chip does in one plan, as a share of what it does in the first."""
    if not (first["fits"] and other["fits"]):
        return {}
    shares = {
        f"efficiency_{bound}": first[f"chip_hours_{bound}"]
        / other[f"chip_hours_{bound}"]
        for bound in ("serial", "hidden")
    }
    return {"efficiency_from": first["topology"], **shares}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gb(facts: dict[str, Any], limit: float) -> str:
    return f"{facts['memory_bytes'] / 1e9:.2f} of {limit / 1e9:.2f} GB"


def _range(facts: dict[str, Any], name: str, scale: float = 1.0) -> str:
    """The least and the greatest of two bounds."""
    ends = sorted(facts[f"{name}_{bound}"] * scale for bound in ("serial", "hidden"))
    return " to ".join(map(_number, ends))


def _advised(facts: dict[str, Any]) -> str:
    said = f"compiled: {facts['flags']}\n  {_gb(facts, facts['memory_limit_bytes'])}"
    if not facts["fits"]:
        return f"{said}, does not fit"
    step = f"{_range(facts, 'step_seconds', 1e3)} ms a step"
    return f"{said}, {step}, MFU {_range(facts, 'mfu', 1e2)} %"


def _column(each: dict[str, Any], kinds: list[str], limit: float) -> dict[str, str]:
    """A phase on the screen: what → its figure, with the unit."""

    def ms(seconds: float) -> str:
        return f"{_number(seconds * 1e3)} ms"

    rows = {
        "steps × rows × tokens": "{steps:,} × {batch:,} × {length}".format(**each),
        "rows of a chip × micro-batches": "{rows_per_chip} × {accumulate}",
        "memory of a chip": _gb(each, limit),
    }
    rows |= {f"  {k}": f"{v / 1e9:.2f} GB" for k, v in each["memory"].items()}
    rows |= {
        "matrix products": f"{_number(each['flops'] / 1e12)} TFLOP",
        "  of the model": f"{_number(each['model_flops'] / 1e12)} TFLOP",
        "HBM traffic": f"{_number(each['hbm_bytes'] / 1e9)} GB",
        "compute": ms(each["compute_seconds"]),
    }
    for by, seconds in each["compute_seconds_by"].items():
        rows[f"  bound by {_UNITS.get(by, 'kernels')}"] = ms(seconds)
    rows["collectives"] = ms(each["collective_seconds"])
    if between := [x for x in kinds if x.endswith("between slices")]:
        found = (each["collectives"].get(kind, {"seconds": 0.0}) for kind in between)
        rows["  between slices"] = ms(sum(x["seconds"] for x in found))
    for kind in kinds:
        found = each["collectives"].get(kind, {"count": 0, "bytes": 0})
        size = found["bytes"] / max(1, found["count"]) / 1e6
        rows[f"  {kind}"] = f"{found['count']:.0f} × {_number(size)} MB"
    rows |= {
        "step, collectives one by one": ms(each["step_seconds_serial"]),
        "step, as scheduled": ms(each["step_seconds_scheduled"]),
        "step, all collectives hidden": ms(each["step_seconds_hidden"]),
        "bound by": _UNITS.get(each["bound"], each["bound"]),
        "MFU at most": f"{_range(each, 'mfu', 1e2)} %",
        "tokens a second at most": _range(each, "tokens_per_second"),
        "of the speed of as many lone chips": f"{each['scaling']:.0%}",
    }
    return {what: text.format(**each) for what, text in rows.items()}


def _show(facts: dict[str, Any], copies: int) -> None:
    """Print one screen, a column for each phase; or that the recipe does not fit."""
    every, limit = facts["phases"], facts["memory_limit_bytes"]
    name = "{recipe} on {topology}".format(**facts)
    if not every:
        parts = dict(facts["memory"])
        if rest := facts["memory_bytes"] - sum(parts.values()):
            parts["gradients and activations"] = rest
        held = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in parts.items())
        said = f"does not fit: a chip needs at least {_gb(facts, limit)}"
        print(f"{name} {said}\n  {held} GB", flush=True)
        return
    among = f" in {facts['slices']} slices" if facts["slices"] > 1 else ""
    print(f"{name}: {facts['chips']} chips{among}, bounds of the compiled program\n")
    kinds = sorted({kind for each in every for kind in each["collectives"]})
    columns = [_column(each, kinds, limit) for each in every]
    for what in columns[0]:
        values = [column[what] for column in columns]
        print(f"{what:<34}" + "".join(f"{value:>22}" for value in values).rstrip())
    hours, chip_hours = _range(facts, "hours"), _range(facts, "chip_hours")
    print(f"\nall steps: {hours} hours at least, {chip_hours} chip-hours")
    if "efficiency_from" in facts:
        low, high = sorted(facts[f"efficiency_{x}"] for x in ("serial", "hidden"))
        print(
            f"speed of a chip: {low:.0%} to {high:.0%} of {facts['efficiency_from']}'s"
        )
    if copies:
        print(f"XLA copies whole arrays {copies} times to cut them otherwise")
    for kernel in facts["unknown_kernels"]:
        print(f"the FLOP of the kernel {kernel} are not known: its bytes are counted")
