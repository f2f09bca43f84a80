"""Structures within structures."""

from collections.abc import Sequence

from pcircuits.errors import StructureError
from pcircuits.structures.region_graph import Partition, Region, RegionGraph
from pcircuits.structures.validation import require_order


def nested(
    graph: RegionGraph, parts: Sequence[RegionGraph], groups: Sequence[Sequence[int]] | None = None
) -> RegionGraph:
    """A region graph whose variables are region graphs: in place of the input regions of variable g stands `parts[g]`,
    whose variable v becomes variable `groups[g][v]`.

    Hidden Chow-Liu trees of an image's patches below a structure of the patches are
    `nested(poon_domingos(2, 2), [hclt(x[:, patch]) for patch in patches], patches)`. Each input region has a copy of
    its own; the hints are those of `graph`.

    Args:
        groups: default the variables 0..D-1 in turn, as many a part as it has.

    >>> from pcircuits.structures import binary_tree, factorized
    >>> nested(binary_tree(2), [factorized(3), factorized(2)])
    RegionGraph(variables=5, regions=8, partitions=3, depth=2)

    Raises:
        StructureError: other than one part a variable, groups that do not fit their part or do not hold each variable
            once, or observed latents, whose units have a meaning that other regions do not keep.
    """
    blocks = _groups(graph, parts, groups)
    regions: list[Region] = []
    places: list[int] = []
    for region in graph.regions:
        if region.is_input:
            (variable,) = region.variables
            regions += _shifted(parts[variable].regions, len(regions), blocks[variable])
        else:
            regions.append(_moved(region, places))
        places.append(len(regions) - 1)
    return RegionGraph(tuple(regions), num_units=graph.num_units, default_layer=graph.default_layer)


def _shifted(regions: Sequence[Region], start: int, variables: Sequence[int]) -> list[Region]:
    """A part's regions from id `start` on, over its `variables`."""
    places = range(start, start + len(regions))
    return [Region.input(*(variables[v] for v in r.variables)) if r.is_input else _moved(r, places) for r in regions]


def _moved(region: Region, places: Sequence[int]) -> Region:
    return Region(tuple(Partition(tuple(places[child] for child in p.children)) for p in region.partitions))


def _groups(
    graph: RegionGraph, parts: Sequence[RegionGraph], groups: Sequence[Sequence[int]] | None
) -> list[list[int]]:
    if bad := [g for g in (graph, *parts) if not isinstance(g, RegionGraph)]:
        raise StructureError(f"nested joins region graphs, got {bad[0]!r:.80}")
    if len(parts) != graph.num_variables or any(len(region.variables) > 1 for region in graph.regions):
        raise StructureError(
            f"parts must be one region graph for each of {graph.num_variables} variables, whose input regions hold one "
            f"variable each; got {len(parts)} parts"
        )
    if any(g.observed_latents for g in (graph, *parts)):
        raise StructureError("nested needs graphs whose latents are hidden, such as hclt; got one of observed latents")
    sizes = [part.num_variables for part in parts]
    if groups is None:
        return [list(range(sum(sizes[:g]), sum(sizes[: g + 1]))) for g in range(len(sizes))]
    blocks = [list(group) for group in groups]
    if [len(block) for block in blocks] != sizes:
        raise StructureError(
            f"groups must name as many variables as each part has, {sizes}; got {[len(block) for block in blocks]}"
        )
    require_order("groups", [variable for block in blocks for variable in block], sum(sizes))
    return blocks
