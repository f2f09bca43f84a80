"""The Chow-Liu tree: the best tree-shaped model of the observed variables."""

import networkx as nx
import numpy as np
from torch import Tensor

from pcircuits.structures.latent_tree import latent_tree
from pcircuits.structures.mutual_information import as_categories, mutual_information
from pcircuits.structures.region_graph import RegionGraph
from pcircuits.structures.validation import require_integer


def chow_liu(
    x: Tensor | np.ndarray,
    *,
    num_categories: int | None = None,
    root: int | None = None,
    smoothing: float = 0.0,
    weights: Tensor | np.ndarray | None = None,
) -> RegionGraph:
    """The tree over the variables themselves that fits the data `x` (B, D) best (Chow & Liu 1968), as a region graph.

    It is the graph of `hclt` with latents that are observed: unit k of input region v is the indicator of x_v = k, so
    there are V units (`num_categories`, default: the largest category of `x`, plus one), the sums' weights are the
    conditional probability tables, and the circuit is deterministic. The options are those of `chow_liu_tree`.
    """
    tree = chow_liu_tree(x, root=root, num_categories=num_categories, smoothing=smoothing, weights=weights)
    num_values = int(as_categories(x).max()) + 1 if num_categories is None else num_categories
    return latent_tree(tree, num_units=num_values, observed_latents=True)


def chow_liu_tree(
    x: Tensor | np.ndarray,
    root: int | None = None,
    *,
    num_categories: int | None = None,
    smoothing: float = 0.0,
    weights: Tensor | np.ndarray | None = None,
) -> nx.DiGraph:
    """A maximum spanning tree under the mutual information of the columns of `x` (B, D), directed away from `root`.

    Nodes are the variables 0..D-1; the edge attribute `weight` is the mutual information in nats. The default root is
    the tree's centre, which makes it least deep. The other options and the errors are those of `mutual_information`.
    """
    if root is not None:
        root = require_integer("root", root, minimum=0, maximum=as_categories(x).shape[1] - 1)
    information = mutual_information(x, num_categories=num_categories, smoothing=smoothing, weights=weights)
    undirected = maximum_spanning_tree(information.cpu().numpy())
    start = _centre(undirected) if root is None else root
    tree: nx.DiGraph = nx.DiGraph()
    tree.add_node(start)
    tree.add_edges_from((p, c, undirected.edges[p, c]) for p, c in nx.bfs_edges(undirected, start))
    return tree


def maximum_spanning_tree(weights: np.ndarray) -> nx.Graph:
    """Prim's algorithm on the dense (D, D) matrix, O(D^2): a networkx graph of all its edges would take gigabytes."""
    num_variables = len(weights)
    tree: nx.Graph = nx.Graph()
    tree.add_node(0)
    outside = np.ones(num_variables, dtype=bool)
    outside[0] = False
    best, parent = weights[0].copy(), np.zeros(num_variables, dtype=int)
    for _ in range(num_variables - 1):
        node = int(np.where(outside, best, -np.inf).argmax())
        tree.add_edge(int(parent[node]), node, weight=float(best[node]))
        outside[node] = False
        closer = outside & (weights[node] > best)
        best[closer], parent[closer] = weights[node, closer], node
    return tree


def _centre(tree: nx.Graph) -> int:
    """The middle of a longest path."""
    *_, end = nx.bfs_tree(tree, 0)  # the node met last is a farthest one
    *_, other_end = nx.bfs_tree(tree, end)
    path = nx.shortest_path(tree, end, other_end)
    return path[len(path) // 2]
