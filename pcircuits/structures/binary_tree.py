"""The balanced binary tree."""

from collections.abc import Iterable

from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer, require_order


def binary_tree(num_variables: int, order: Iterable[int] | None = None, *, num_units: int | None = None) -> RegionGraph:
    """Neighbours in `order` (default 0..D-1) join in pairs, level by level: depth ceil(log2 D) (cf. Dang et al. 2020).

    Where a level has an odd number of regions, its last one joins a level higher. Input region v has id v.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    level = list(range(num_variables)) if order is None else require_order("order", order, num_variables)
    regions = [Region.input(variable) for variable in range(num_variables)]
    if num_variables == 1:
        regions.append(Region.split((0,)))
    while len(level) > 1:
        pairs = list(zip(level[0::2], level[1::2], strict=False))
        odd = level[2 * len(pairs) :]
        level = [*range(len(regions), len(regions) + len(pairs)), *odd]
        regions.extend(Region.split(pair) for pair in pairs)
    return RegionGraph(tuple(regions), num_units=num_units)
