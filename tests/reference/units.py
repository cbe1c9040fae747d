"""The positions of each unit, and wrong ways to choose units."""

import numpy as np
from reference.bert_data import Reference


def units_of(start_L: np.ndarray, candidate_L: np.ndarray) -> list[list[int]]:
    """The positions of each unit: a piece that starts no word joins the one before."""
    units: list[list[int]] = []
    for position in np.nonzero(candidate_L)[0].tolist():
        if start_L[position] or not units:
            units.append([])
        units[-1].append(position)
    return units


class Stop(Reference):
    """Wrong: stop at the first unit that does not fit."""

    def choose(self, order, budget):
        chosen: list[int] = []
        for unit in order:
            if len(chosen) + len(unit) > budget:
                break
            chosen.extend(unit)
        return sorted(chosen)


class Overrun(Reference):
    """Wrong: take the unit that exceeds the budget."""

    def choose(self, order, budget):
        chosen: list[int] = []
        for unit in order:
            if len(chosen) >= budget:
                break
            chosen.extend(unit)
        return sorted(chosen)
