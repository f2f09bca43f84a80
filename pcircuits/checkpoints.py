"""Which levels' values an upward pass keeps where those of all do not fit: activation checkpointing (Chen, Xu, Zhang,
Guestrin 2016, "Training deep nets with sublinear memory cost").

Levels are cut into stretches of about equal size, as many as the root of their number. Of a stretch only what later
ones read is kept; the rest is worked out again on the way down, from what was kept and in the same order, and so is the
same to the bit.
"""

import math
from typing import NamedTuple

from pcircuits.plan import InnerLevel, Level, Plan


class Stretch(NamedTuple):
    """Consecutive levels, and those of them that no later one reads."""

    levels: range
    forgotten: tuple[int, ...]


def find_stretches(plan: Plan) -> list[Stretch]:
    """From the inputs on. Levels of chain segments, which are evaluated as one, and the root are never forgotten."""
    sizes = [_size(level) for level in plan.levels]
    most, found, start = sum(sizes) / math.sqrt(len(sizes)), [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sum(sizes[start : stop + 1]) > most:
            found.append(range(start, stop))
            start = stop
    kept = {len(sizes) - 1, *(n for chain in plan.chains for n in range(chain.start, chain.stop))}
    return [
        Stretch(levels, tuple(n for n in levels if n not in kept and plan.readers[n] <= set(levels)))
        for levels in found
    ]


def _size(level: Level) -> int:
    """Numbers a sample that a level leaves."""
    width = level.num_units
    if isinstance(level, InnerLevel) and level.weights is not None and len(level.children) > 1:
        width *= 2 if level.product == "hadamard" else 1 + level.num_units
    return level.num_rows * width
