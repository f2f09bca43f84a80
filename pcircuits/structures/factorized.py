"""The fully factorised structure."""

from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer


def factorized(num_variables: int, *, num_units: int | None = None) -> RegionGraph:
    """The root has one partition into all leaves: p(x) = sum_k w_k prod_d p_dk(x_d) for K units.

    Input region v has id v.
    """
    num_variables = require_integer("num_variables", num_variables, minimum=1)
    leaves = [Region.input(variable) for variable in range(num_variables)]
    return RegionGraph((*leaves, Region.split(range(num_variables))), num_units=num_units)
