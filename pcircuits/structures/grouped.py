"""Structures over groups of variables with joint inputs."""

from collections.abc import Sequence
from dataclasses import replace

from pcircuits.errors import StructureError
from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_order


def grouped(graph: RegionGraph, groups: Sequence[Sequence[int]]) -> RegionGraph:
    """A region graph whose variables are groups of variables: variable g becomes the input region over `groups[g]`,
    whose variables a family such as MultivariateGaussian or ChowLiuTree models jointly.

    >>> from pcircuits.structures import binary_tree
    >>> grouped(binary_tree(2), [[0, 2], [1, 3]])
    RegionGraph(variables=4, regions=3, partitions=1, depth=1)

    Raises:
        StructureError: groups that are not one a variable of the graph, or do not hold each variable 0..D-1 once.
    """
    blocks = [list(group) for group in groups]
    if len(blocks) != graph.num_variables or not all(blocks):
        raise StructureError(f"groups must name at least one variable for each of {graph.num_variables}")
    if any(len(region.variables) > 1 for region in graph.regions):
        raise StructureError("grouped needs a graph whose input regions hold one variable each")
    every = [variable for block in blocks for variable in block]
    require_order("groups", every, len(every))
    regions = (Region.input(*blocks[r.variables[0]]) if r.is_input else r for r in graph.regions)
    return replace(graph, regions=tuple(regions))
