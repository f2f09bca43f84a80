"""Latent tree models: a tree over the variables, and one latent variable at each of its nodes."""

import networkx as nx

from pcircuits.errors import StructureError
from pcircuits.structures.region_graph import Region, RegionGraph


def latent_tree(tree: nx.DiGraph, *, num_units: int | None = None, observed_latents: bool = False) -> RegionGraph:
    """Region u_v is the product of leaf v and of u_c for each child c of v in `tree`, then a dense sum.

    u_v[i'] = sum_i p(z_v = i | z_parent = i') p(x_v | z_v = i) prod_c u_c[i]   (Liu & Van den Broeck 2021).
    The nodes of `tree` are the variables 0..D-1, its edges lead away from its root. Input region v has id v.
    `observed_latents` says that z_v is x_v itself, and thereby turns the latent tree into a tree over what is observed.
    """
    _check_tree(tree)
    regions = [Region.input(variable) for variable in range(len(tree))]
    region_of: dict[int, int] = {}
    for variable in reversed(list(nx.topological_sort(tree))):
        region_of[variable] = len(regions)
        regions.append(Region.split((variable, *(region_of[child] for child in tree.successors(variable)))))
    return RegionGraph(tuple(regions), num_units=num_units, default_layer="cp-t", observed_latents=observed_latents)


def _check_tree(tree: nx.DiGraph) -> None:
    if not isinstance(tree, nx.DiGraph) or len(tree) == 0:
        raise StructureError(f"tree must be a networkx DiGraph with at least one node, got {tree!r:.80}")
    if set(tree) != set(range(len(tree))):
        raise StructureError(f"the nodes of tree must be the variables 0..{len(tree) - 1}, got {list(tree)!r:.80}")
    if not nx.is_arborescence(tree):
        raise StructureError(
            "tree must be one tree whose edges lead away from its root; "
            f"got {tree.number_of_nodes()} nodes, {tree.number_of_edges()} edges and "
            f"{sum(degree == 0 for _, degree in tree.in_degree)} nodes without a parent"
        )
