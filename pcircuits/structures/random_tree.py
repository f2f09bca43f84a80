"""Random trees."""

import random

import networkx as nx

from pcircuits.structures.binary_tree import binary_tree
from pcircuits.structures.latent_tree import latent_tree
from pcircuits.structures.region_graph import RegionGraph
from pcircuits.structures.validation import require_integer


def random_binary_tree(num_variables: int, *, seed: int, num_units: int | None = None) -> RegionGraph:
    """The balanced binary tree over the variables in random order (Di Mauro et al. 2017, "RBT"). Input region v has id
    v.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    order = random.Random(require_integer("seed", seed, minimum=0)).sample(range(num_variables), num_variables)
    return binary_tree(num_variables, order, num_units=num_units)


def random_latent_tree(num_variables: int, *, seed: int, num_units: int | None = None) -> RegionGraph:
    """A latent tree over a tree of the variables that is drawn uniformly from all D^(D-2) (Pruefer 1918), rooted at
    variable 0.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    rng = random.Random(require_integer("seed", seed, minimum=0))
    tree: nx.DiGraph = nx.DiGraph()
    tree.add_nodes_from(range(num_variables))
    if num_variables == 2:
        tree.add_edge(0, 1)
    if num_variables > 2:
        drawn = nx.from_prufer_sequence([rng.randrange(num_variables) for _ in range(num_variables - 2)])
        tree.add_edges_from(nx.bfs_edges(drawn, 0))
    return latent_tree(tree, num_units=num_units)
