"""Chain segments of a plan: runs of levels that are one step each of the same recursion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from pcircuits.types import Int, Tensor

if TYPE_CHECKING:
    from pcircuits.plan import Gather, Incoming, Level

LEAST_STEPS = 2


@dataclass(frozen=True)
class Chain:
    """Levels `start` to `stop - 1`, each `W_n (side_n * values of level n - 1)`, but for the first one if it `leads`,
    which is `W_n side_n`. `side`: the argument position of the child that is not the level before; the steps' sides are
    rows `rows` of level `source`, in turn. `tied`: all steps have the same weights.
    """

    start: int
    stop: int
    side: int
    tied: bool
    source: int
    rows: Int[Tensor, " R"]
    leads: bool

    @property
    def without_lead(self) -> "Chain":
        """What remains without a first step that leads."""
        if not self.leads:
            return self
        width = len(self.rows) // (self.stop - self.start)
        return replace(self, start=self.start + 1, rows=self.rows[width:], leads=False)


def find_chains(levels: "Sequence[Level]", incoming: "Sequence[Incoming]") -> tuple[Chain, ...]:
    """The longest chain segments."""
    found: list[Chain] = []
    n = 1
    while n < len(levels):
        stop, groups = n + 1, set[str]()
        while stop < len(levels) and _goes_on(levels, incoming, n, stop, groups):
            stop += 1
        side = _side(levels, n)
        if side is not None and stop - n >= LEAST_STEPS:
            start = n - 1 if _leads(levels, incoming, n, side, groups) else n
            found.append(_chain(levels[start:stop], start, side, levels))
            n = stop
        else:
            n += 1
    return tuple(found)


def _chain(steps: "Sequence[Level]", start: int, side: int, levels: "Sequence[Level]") -> Chain:
    groups = {level.weights.group for level in steps}  # type: ignore[union-attr]
    leads = len(steps[0].children) == 1  # type: ignore[union-attr]
    parts = [_parts(level, min(side, len(level.children) - 1))[0] for level in steps]  # type: ignore[union-attr]
    source = parts[0].level
    everything = torch.arange(levels[source].num_rows)
    rows = torch.cat([everything if part.index is None else everything[part.index] for part in parts])
    return Chain(start, start + len(steps), side, len(groups) == 1, source, rows, leads)


def _goes_on(levels: "Sequence[Level]", incoming: "Sequence[Incoming]", first: int, n: int, groups: set[str]) -> bool:
    """Whether level n is a step like level `first`, and the only reader of the level before. `groups`, the steps'
    parameter groups until then, gets its own: all are the same, or no two.
    """
    side, below = _side(levels, n), incoming[n - 1]
    if side is None or side != _side(levels, first):
        return False
    if _parts(levels[n], side)[0].level != _parts(levels[first], side)[0].level:
        return False
    shapes = {(levels[m].num_rows, levels[m].num_units) for m in (first, n)}
    groups |= {levels[m].weights.group for m in (first, n)}  # type: ignore[union-attr]
    return _is_only_reader(below) and len(shapes) == 1 and len(groups) in (1, n + 1 - first)


def _leads(levels: "Sequence[Level]", incoming: "Sequence[Incoming]", first: int, side: int, groups: set[str]) -> bool:
    """Whether the level before the first step is one without values of a level before it."""
    level, n = levels[first - 1], first - 1
    if not _is_dense_sum(level, 1) or len(_parts(level, 0)) != 1 or not _is_only_reader(incoming[n]):
        return False
    source = _parts(level, 0)[0].level
    alike = source == _parts(levels[first], side)[0].level and levels[source].num_units == level.num_units
    own = level.weights.group  # type: ignore[union-attr]
    return alike and (groups == {own} or (len(groups) > 1 and own not in groups))


def _side(levels: "Sequence[Level]", n: int) -> int | None:
    """The argument position beside the level before, None where level n is no step."""
    level = levels[n]
    if not _is_dense_sum(level, 2):
        return None
    sides = [a for a in (0, 1) if not _is_level(level.children[a], n - 1, level.num_rows)]  # type: ignore[union-attr]
    below = levels[n - 1]
    alike = (below.num_rows, below.num_units) == (level.num_rows, level.num_units)
    return sides[0] if len(sides) == 1 and alike and len(_parts(level, sides[0])) == 1 else None


def _is_dense_sum(level: "Level", num_children: int) -> bool:
    product, weights = getattr(level, "product", None), getattr(level, "weights", None)
    tied_rows = weights is not None and weights.rows is not None
    return product == "hadamard" and weights is not None and not tied_rows and len(level.children) == num_children  # type: ignore[union-attr]


def _is_only_reader(incoming: "Incoming") -> bool:
    return len(incoming.sources) == 1 and incoming.index is None and incoming.target is None


def _parts(level: "Level", argument: int) -> tuple:
    gather = level.children[argument]  # type: ignore[union-attr]
    return gather.parts if gather.order is None else ()


def _is_level(gather: "Gather", n: int, num_rows: int) -> bool:
    """Whether what is gathered is all of level n, in order."""
    if len(gather.parts) != 1 or gather.order is not None or gather.parts[0].level != n:
        return False
    index = gather.parts[0].index
    return index is None or (isinstance(index, slice) and index == slice(0, num_rows, 1))
