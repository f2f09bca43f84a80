"""Hidden Chow-Liu trees."""

import numpy as np
from torch import Tensor

from pcircuits.structures.chow_liu import chow_liu_tree
from pcircuits.structures.latent_tree import latent_tree
from pcircuits.structures.region_graph import RegionGraph


def hclt(
    x: Tensor | np.ndarray,
    num_units: int | None = None,
    *,
    root: int | None = None,
    smoothing: float = 0.0,
    weights: Tensor | np.ndarray | None = None,
) -> RegionGraph:
    """The Chow-Liu tree of the data `x` (B, D) with a latent variable of `num_units` values at each node.

    Region u_v has one partition: leaf v and u_c of each child c (Liu & Van den Broeck 2021). Only the order of the
    mutual informations matters, so coarser categories (`x // 8` for pixels) or some of the rows do as well, sooner.
    The options and errors are those of `chow_liu_tree`.
    """
    return latent_tree(chow_liu_tree(x, root=root, smoothing=smoothing, weights=weights), num_units=num_units)
