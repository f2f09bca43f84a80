"""Region graphs from networkx."""

from collections.abc import Hashable

import networkx as nx

from pcircuits.errors import StructureError
from pcircuits.structures.region_graph import HINTS, Region, RegionGraph
from pcircuits.structures.validation import require_integer


def from_networkx(digraph: nx.DiGraph) -> RegionGraph:
    """A region graph from a directed graph whose edges lead from a region to what it is made of.

    A node with the attribute `variable=v`, or `variable=(v, w)` of several, is an input region; one with
    `partition=True` is a partition, and its successors are the regions that it multiplies; any other node is a region.
    A region's successors are its partitions, or else regions, which then are its only partition. The one node without
    predecessors is the root.
    Hints are read from `digraph.graph`. Regions are numbered children first, otherwise in the order of the nodes, so
    this inverts `RegionGraph.to_networkx`.

    >>> tree = nx.DiGraph([("root", "left"), ("root", "right")])
    >>> tree.add_node("left", variable=0); tree.add_node("right", variable=1)
    >>> from_networkx(tree)
    RegionGraph(variables=2, regions=3, partitions=1, depth=1)
    """
    if not isinstance(digraph, nx.DiGraph) or digraph.is_multigraph() or len(digraph) == 0:
        raise StructureError(f"from_networkx needs a non-empty networkx DiGraph, got {digraph!r:.80}")
    nodes = _children_first(digraph)
    _check_root(digraph)
    ids = {node: index for index, node in enumerate(n for n in nodes if not _is_partition(digraph, n))}
    regions = tuple(_region(digraph, node, ids) for node in ids)
    try:
        return RegionGraph(regions, **{hint: digraph.graph[hint] for hint in HINTS if hint in digraph.graph})
    except StructureError as error:
        numbered = ", ".join(f"{index} is {node!r}" for node, index in list(ids.items())[:20])
        raise StructureError(f"{error} (region {numbered}{', ...' if len(ids) > 20 else ''})") from None


def _is_partition(digraph: nx.DiGraph, node: Hashable) -> bool:
    return bool(digraph.nodes[node].get("partition", False))


def _children_first(digraph: nx.DiGraph) -> list[Hashable]:
    """All nodes, successors before predecessors and otherwise as they were added."""
    position = {node: index for index, node in enumerate(digraph)}
    try:
        return list(nx.lexicographical_topological_sort(digraph.reverse(copy=False), key=position.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = " -> ".join(repr(edge[0]) for edge in nx.find_cycle(digraph))
        raise StructureError(f"from_networkx needs a graph without cycles, got {cycle} -> (the first again)") from None


def _check_root(digraph: nx.DiGraph) -> None:
    roots = [node for node, degree in digraph.in_degree if degree == 0]
    if len(roots) != 1 or _is_partition(digraph, roots[0]):
        raise StructureError(f"from_networkx needs one region without predecessors, the root, got {roots!r:.80}")


def _region(digraph: nx.DiGraph, node: Hashable, ids: dict[Hashable, int]) -> Region:
    successors = list(digraph.successors(node))
    if "variable" in digraph.nodes[node]:
        if successors:
            raise StructureError(f"node {node!r} has a variable, so it must have no successors, got {successors!r:.80}")
        variable = digraph.nodes[node]["variable"]
        variables = variable if isinstance(variable, tuple | list) and variable else (variable,)
        return Region.input(*(require_integer(f"node {node!r}: variable", v, minimum=0) for v in variables))
    partitions = [successor for successor in successors if _is_partition(digraph, successor)]
    if not successors or (partitions and len(partitions) < len(successors)):
        raise StructureError(
            f"region node {node!r} must have a variable, or successors that are all partitions or all regions, "
            f"got {len(partitions)} partitions and {len(successors) - len(partitions)} regions"
        )
    if not partitions:
        return Region.split(ids[child] for child in successors)
    return Region.split(*(_children(digraph, partition, ids) for partition in partitions))


def _children(digraph: nx.DiGraph, partition: Hashable, ids: dict[Hashable, int]) -> list[int]:
    children = list(digraph.successors(partition))
    if not children or "variable" in digraph.nodes[partition] or any(child not in ids for child in children):
        raise StructureError(
            f"partition node {partition!r} must have regions as successors and no variable, got {children!r:.80}"
        )
    return [ids[child] for child in children]
