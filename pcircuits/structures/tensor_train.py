"""Tensor trains."""

from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer


def tensor_train(num_variables: int, *, num_units: int | None = None) -> RegionGraph:
    """Region u_t over t..D-1 splits into leaf t and u_{t+1}, with a sum over all pairs of their units ("tucker").

    u_t[i] = sum_{k,j} W_t[i, k, j] e_t[k] u_{t+1}[j] is a tensor train (matrix product state; Oseledets 2011; Glasser
    et al. 2019) of rank `num_units`, with cores G_t[i, x, j] = sum_k W_t[i, k, j] e_t[k](x), any non-negative ones if
    there are at least as many units as values. Region t is the input region of variable t.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    regions = [Region.input(variable) for variable in range(num_variables)]
    if num_variables == 1:
        regions.append(Region.split((0,)))
    last = num_variables - 1
    for variable in reversed(range(num_variables - 1)):
        regions.append(Region.split((variable, last)))
        last = len(regions) - 1
    return RegionGraph(tuple(regions), num_units=num_units, default_layer="tucker")
