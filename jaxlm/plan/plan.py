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
from jaxlm.memory import exhausted
from jaxlm.plan.program import read_program
from jaxlm.plan.roofline import Step, collective, compute_seconds, steps_of
from jaxlm.plan.topologies import Topology
from jaxlm.sharding import batch_parts
from jaxlm.train.fits import changed, lower_step, program_bytes
from jaxlm.train.source import Run, corpus_source, open_phase, open_run, phases_of

_TRIED = 6  # settings that are compiled at most, if a config does not fit


class PhasePlan(NamedTuple):
    """The step of a phase on one chip; its program is `steps`."""

    phase: Phase
    updates: int
    rows: int  # of a micro-batch
    memory: dict[str, int]  # what → bytes
    steps: list[Step]
    model_flops: float

    @property
    def compute(self) -> float:
        """Seconds of a step without its collectives."""
        return compute_seconds(self.steps)

    @property
    def network(self) -> float:
        """Seconds of its collectives, one after another."""
        return math.fsum(each.seconds for each in self.steps if collective(each))

    @property
    def serial(self) -> float:
        """Seconds of a step if no collective overlaps with anything."""
        return self.compute + self.network

    @property
    def hidden(self) -> float:
        """Seconds of a step if all collectives overlap with computing."""
        return max(self.compute, self.network)

    @property
    def flops(self) -> float:
        """FLOP of a step's matrix products."""
        return math.fsum(each.flops for each in self.steps)


class Planned(NamedTuple):
    """What a config needs of a chip; without phases, it does not fit."""

    memory: dict[str, int]  # what is held between steps → bytes
    needed: float  # bytes of the largest step, as far as XLA says it
    phases: tuple[PhasePlan, ...] = ()


def plan(config: RunConfig, machine: Topology) -> Planned:
    """What each phase does on a chip of a machine."""
    run, _ = open_run(config, corpus_source(config, None), devices=machine.devices)
    opened = []
    for number, begin, phase in phases_of(config):
        each = open_phase(run, number, begin, phase)
        opened.append((begin, phase, lower_step(run, each, [each.read(begin)])))
    held = _held(run)
    with ThreadPoolExecutor() as pool:
        try:
            compiled = list(pool.map(lambda each: each[2].compile(), opened))
        except Exception as error:
            if not exhausted(error):
                raise
            return Planned(held, _needed(str(error), held))
    needed = [program_bytes(run, each) for each in compiled]
    if max(needed) > machine.chip.memory:
        return Planned(held, max(needed))
    parts = batch_parts(run.mesh)
    found = []
    for (begin, phase, _), program, size in zip(opened, compiled, needed, strict=True):
        memory = {**held, "batch": _batch(program, held)}
        memory["gradients, activations"] = size - sum(memory.values())
        found.append(
            PhasePlan(
                phase,
                phase.until - begin,
                phase.batch // phase.accumulate // parts,
                memory,
                steps_of(read_program(program.as_text()), machine),
                family_of(config.model).train_flops(config, phase) / run.mesh.size,
            )
        )
    return Planned(held, max(needed), tuple(found))


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


def advise(config: RunConfig, machine: Topology, large: Planned) -> Iterator[Advice]:
    """Settings with which a config may fit, compiled until one does."""
    for flags, other in _candidates(config, machine, large)[:_TRIED]:
        found = plan(other, machine)
        yield Advice(flags, found)
        if found.phases:
            return


def _candidates(
    config: RunConfig, machine: Topology, large: Planned
) -> list[tuple[str, RunConfig]]:
    """(flags, config) of settings that arithmetic does not rule out, in turn."""
    limit, state = machine.chip.memory, sum(large.memory.values())
    chips = len(machine.devices)
    # In how many parts each device can cut its rows.
    rows = [each.batch // each.accumulate / chips for each in config.all_phases]
    cuts = [n for n in range(2, int(min(rows)) + 1) if not any(x % n for x in rows)]
    found = []
    for fsdp in (1, chips):
        room = limit - state / fsdp
        if room < 0.1 * limit:
            continue
        # Micro-batches with which the rest would fit, if it shrank with them.
        wanted = (large.needed - state) / room
        enough = [n for n in cuts if n >= wanted] or cuts[-1:]
        levers = [("full", 1), *(("", n) for n in enough[:1])]
        levers += [("full", n) for n in (*enough[:1], *cuts[-1:])]
        for remat, times in [("", 1)] * (fsdp > 1) + levers:
            found.append(changed(config, remat=remat, times=times, fsdp=fsdp))
    return list(dict(filter(None, found)).items())
