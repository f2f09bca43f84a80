"""Which levels of a plan have rows with few joint states of their variables."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.plan import Gather, InputLevel, JointStates, Level, MixingLevel, Plan

_MOST_STATES = 1 << 16


class Tabled(NamedTuple):
    """Levels that read no others, and those of them that others read; the latter no tabled level reads."""

    levels: tuple[int, ...]
    read: tuple[int, ...]


def joint_states(levels: Sequence[Level]) -> tuple[JointStates | None, ...]:
    """Of the levels above discrete inputs whose rows have equally many, not too many."""
    found: list[JointStates | None] = []
    for level in levels:
        states = _states(level, found)
        found.append(None if states is None or states.count > _MOST_STATES else states)
    return tuple(found)


def tabled(plan: Plan, most: int) -> Tabled:
    """The levels with at most `most` joint states, but for those that would be needed by state and by sample."""
    inside = {n for n, states in enumerate(plan.states) if states is not None and states.count <= most}
    readers = plan.readers
    while True:
        torn = [readers[n] & inside for n in inside if not readers[n] <= inside]
        outside = set[int]().union(*torn) | {n for n in inside if not _read_by(plan.levels[n]) <= inside}
        if not outside:
            return Tabled(tuple(sorted(inside)), tuple(n for n in sorted(inside) if not readers[n] & inside))
        inside -= outside


def _states(level: Level, below: Sequence[JointStates | None]) -> JointStates | None:
    if isinstance(level, InputLevel):
        if not isinstance(level.family, Discrete) or level.family.num_variables > 1:
            return None
        return JointStates(torch.tensor(level.variables).unsqueeze(1), (level.family.num_categories,))
    if isinstance(level, MixingLevel):  # whose terms count their states in orders of their own
        return None
    each = [_states_of(g, below) for g in level.children]
    known = [states for states in each if states is not None]
    if len(known) < len(each):
        return None
    sizes = tuple(size for states in known for size in states.sizes)
    return JointStates(torch.cat([states.variables for states in known], 1), sizes)


def _states_of(g: Gather, below: Sequence[JointStates | None]) -> JointStates | None:
    """Of the rows at one argument position."""
    known = [(states, part.index) for part in g.parts if (states := below[part.level]) is not None]
    if len(known) < len(g.parts) or len({states.sizes for states, _ in known}) > 1:
        return None
    rows = torch.cat([states.variables if index is None else states.variables[index] for states, index in known])
    return JointStates(rows if g.order is None else rows[g.order], known[0][0].sizes)


def _read_by(level: Level) -> set[int]:
    return set() if isinstance(level, InputLevel) else {part.level for g in level.children for part in g.parts}
