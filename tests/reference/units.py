"""Which positions make a unit, and wrong ways to choose among units."""

import numpy as np
from reference.bert_data import Reference


def units_of(start_L: np.ndarray, candidate_L: np.ndarray) -> list[list[int]]:
    """Positions of each unit, by the reference's joining of pieces to what precedes."""
    units: list[list[int]] = []
    for position in np.nonzero(candidate_L)[0].tolist():
        if start_L[position] or not units:
            units.append([])
        units[-1].append(position)
    return units


class Stop(Reference):
    """Ends at the first unit that does not fit."""

    def choose(self, order, budget):
        chosen: list[int] = []
        for unit in order:
            if len(chosen) + len(unit) > budget:
                break
            chosen.extend(unit)
        return sorted(chosen)


class Overrun(Reference):
    """Takes the unit that crosses the budget."""

    def choose(self, order, budget):
        chosen: list[int] = []
        for unit in order:
            if len(chosen) >= budget:
                break
            chosen.extend(unit)
        return sorted(chosen)
