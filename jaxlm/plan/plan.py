"""A config and a machine that is not here → what its training steps need and do.

Each phase's own step is compiled, and its program read. Next: `cli/plan.py`.
"""

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from jaxlm.config import Phase, RunConfig
from jaxlm.families import family_of
from jaxlm.memory import exhausted, program_bytes
from jaxlm.plan.program import read_program
from jaxlm.plan.roofline import between_slices, collective, compute_seconds, steps_of
from jaxlm.plan.topologies import Topology
from jaxlm.sharding import batch_parts
from jaxlm.train.fits import changed, lower_step
from jaxlm.train.source import (
    Run,
    corpus_source,
    open_phase,
    open_run,
    phases_of,
)

_TRIED = 6  # settings that are compiled at most
_KINDS = ("matrix", "memory", "vector", "kernel")

Facts = dict[str, Any]  # the fields of a phase in the JSON object


class Planned(NamedTuple):
    """What a config needs of a chip; without phases, it does not fit."""

    memory: dict[str, int]  # what is held between steps → bytes
    needed: float  # bytes of the largest step, as far as they are known
    phases: tuple[Facts, ...] = ()


def plan(config: RunConfig, machine: Topology) -> Planned:
    """What each phase does on a chip of a machine."""
    run, _ = open_run(config, corpus_source(config, None), devices=machine.devices)
    held, limit = _held(run), machine.chip.memory
    if sum(held.values()) > limit:  # no program needs less
        return Planned(held, sum(held.values()))
    opened = []
    for number, begin, phase in phases_of(config):
        each = open_phase(run, number, begin, phase)
        opened.append((begin, phase, lower_step(run, each, [each.read(begin)])))
    with ThreadPoolExecutor() as pool:
        try:
            compiled = list(pool.map(lambda each: each[2].compile(), opened))
        except Exception as error:
            if not exhausted(error):
                raise
            return Planned(held, _needed(str(error), held))
    needed = [program_bytes(each, run.mesh) for each in compiled]
    if max(needed) > limit:
        return Planned(held, max(needed))
    found = []
    for (begin, phase, _), program, size in zip(opened, compiled, needed, strict=True):
        memory = {**held, "batch": _batch(program, held)}
        memory["gradients, activations"] = size - sum(memory.values())
        facts = {"steps": phase.until - begin, "memory": memory, "memory_bytes": size}
        found.append(facts | _step(run, phase, program.as_text(), machine))
    return Planned(held, max(needed), tuple(found))


def _step(run: Run, phase: Phase, text: str, machine: Topology) -> Facts:
    """What a chip does in a step of a phase, by the program's text."""
    steps = steps_of(read_program(text), machine)
    collectives: dict[str, dict[str, float]] = {}
    networks = {True: 0.0, False: 0.0}  # seconds between slices, and inside of them
    for step in filter(collective, steps):
        networks[between_slices(step)] += step.seconds
        none = dict.fromkeys(("count", "bytes", "seconds", "overlapped_seconds"), 0.0)
        total = collectives.setdefault(step.by, none)
        new = (step.times, step.moved, step.seconds, step.hidden)
        for name, value in zip(none, new, strict=True):
            total[name] += value
    alone = [x for x in steps if not collective(x)]
    spent = {by: math.fsum(x.seconds for x in alone if x.by == by) for by in _KINDS}
    compute, network = compute_seconds(steps), sum(networks.values())
    serial, hidden = compute + network, max(compute, *networks.values())
    flops = math.fsum(x.flops for x in steps)
    tokens = phase.batch * phase.length
    facts = {
        "length": phase.length,
        "batch": phase.batch,
        "accumulate": phase.accumulate,
        "rows_per_chip": phase.batch // phase.accumulate // batch_parts(run.mesh),
        "flops": flops,
        "model_flops": family_of(run.config.model).train_flops(run.config, phase)
        / run.mesh.size,
        "hbm_bytes": math.fsum(x.moved for x in alone),
        "collectives": collectives,
        "compute_seconds": compute,
        "compute_seconds_by": spent,
        "bound": "collectives"
        if hidden > compute
        else max(spent, key=spent.__getitem__),
        "collective_seconds": network,
        "step_seconds_scheduled": serial - math.fsum(x.hidden for x in steps),
        "scaling": compute / serial,
        "unknown_kernels": sorted({x.unknown for x in alone if x.unknown}),
    }
    for bound, seconds in (("serial", serial), ("hidden", hidden)):
        facts[f"step_seconds_{bound}"] = seconds
        facts[f"mfu_{bound}"] = flops / (machine.peak * seconds)
        facts[f"tokens_per_second_{bound}"] = tokens / seconds
    return facts


def _held(run: Run) -> dict[str, int]:
    """Bytes that a chip holds between steps."""

    def size(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )

    state = run.abstract
    held = {"parameters": size(state.params), "optimiser": size(state.opt_state)}
    return held | ({"carried state": size(state.carry)} if state.carry else {})


def _batch(program: Any, held: dict[str, int]) -> int:
    arguments = program.memory_analysis().argument_size_in_bytes
    return max(0, arguments - sum(held.values()))


def _needed(said: str, held: dict[str, int]) -> float:
    """The bytes that XLA says a program needs; NaN if it does not say it."""
    gib = re.search(r"HLO temporaries \(([\d.]+)([MGT])\)", said)
    total = re.search(r"Used ([\d.]+)([MGT]) of", said)
    if not (found := total or gib):
        return math.nan
    size = float(found[1]) * 2.0 ** {"M": 20, "G": 30, "T": 40}[found[2]]
    return size if total else size + sum(held.values())


class Advice(NamedTuple):
    """Flags that were tried, and what they lead to."""

    flags: str
    found: Planned


def advise(config: RunConfig, machine: Topology, found: Planned) -> Iterator[Advice]:
    """Other settings, compiled: where a config does not fit, until one does; where it
    does, those that may be faster."""
    for flags, other in candidates(config, machine, found):
        tried = plan(other, machine)
        yield Advice(flags, tried)
        if tried.phases and not found.phases:
            return


def candidates(
    config: RunConfig, machine: Topology, found: Planned
) -> list[tuple[str, RunConfig]]:
    """(flags, config) of settings that arithmetic does not rule out, in turn."""
    limit, state = machine.chip.memory, sum(found.memory.values())
    chips = len(machine.devices)
    levers: list[Any] = []
    if found.phases:
        # Less is computed again, and parameters are read and exchanged less often.
        levers += [{"remat": "none"}]
        if 2 * found.needed - state < limit:
            levers += [{"times": 0.5}, {"rows": 2}]
    # In how many parts each device can cut its rows.
    rows = [each.batch / each.accumulate / chips for each in config.all_phases]
    cuts = [n for n in range(2, int(min(rows)) + 1) if not any(x % n for x in rows)]
    replicas = max(config.mesh.replica, machine.slices)
    for fsdp in (1, chips // replicas) if not found.phases else ():
        room = limit - state / fsdp
        if room < 0.1 * limit:
            continue
        # Micro-batches with which the rest would fit, if it shrank with them.
        wanted = (found.needed - state) / room
        enough = [n for n in cuts if n >= wanted][:1] or cuts[-1:]
        tries: list[Any] = [("", 1)] * (fsdp > 1) + [("full", 1)]
        tries += [(x, n) for x in ("", "full") for n in enough]
        tries += [("full", n) for n in cuts[-1:]]
        levers += [{"remat": x, "times": n, "fsdp": fsdp} for x, n in tries]
    flags = [changed(config, **each) for each in levers]
    return list(dict(filter(None, flags)).items())[:_TRIED]
