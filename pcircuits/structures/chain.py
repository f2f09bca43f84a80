"""The chain: the structure of a hidden Markov model."""

import networkx as nx

from pcircuits.structures.latent_tree import latent_tree
from pcircuits.structures.region_graph import RegionGraph
from pcircuits.structures.validation import require_integer


def chain(num_variables: int, *, num_units: int | None = None) -> RegionGraph:
    """Region u_t over t..D-1 is the product of leaf t and u_{t+1}, then a dense sum; u_{D-1} sums over its leaf alone.

    u_t[i'] = sum_i A[i', i] e_t[i] u_{t+1}[i], so the circuit is a hidden Markov model (Rabiner 1989) and `num_units`
    its number of states. Region t is the input region of variable t, region D + j is u_{D-1-j}.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    return latent_tree(nx.path_graph(num_variables, create_using=nx.DiGraph), num_units=num_units)
