"""LearnSPN: structure and parameters from independence tests and clusters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.learning.region_search import RegionSearch, Table
from pcircuits.structures import Region
from pcircuits.types import Int


@torch.no_grad()
def learn_spn(
    x: Tensor,
    inputs: InputFamily | Sequence[InputFamily] | None = None,
    *,
    min_rows: int = 30,
    significance: float = 1e-3,
    clusters: int = 2,
    bins: int = 5,
    pseudocount: float = 0.1,
    seed: int = 0,
) -> Circuit:
    """A circuit of the table `x` (B, D), whose columns may be of different kinds and have missing values (NaN), by
    LearnSPN (Gens, Domingos 2013): columns that a G-test does not find to depend on each other become factors, the rows
    of the others are clustered by k-means, and each cluster goes on alone.

    Regions differ from one part of the circuit to another and have one unit each; the parameters are those of the
    rows that each part has seen, ready for `fit` to refine.

    Args:
        inputs: one family for all columns or one a column; by default `Categorical` for whole numbers from 0 to at most
            20, and `Gaussian` else.
        min_rows: parts with fewer rows are factorised completely.
        significance: columns are dependent below this p-value; they are cut into `bins` values of equal shares for it.
        clusters: of the rows, at most.
        pseudocount: smoothing of the inputs and of the clusters' weights, in samples.

    Raises:
        DataError, ShapeError: an empty or infinite table. ParameterError: other than one family a column, or a
            probability or number of samples that is none. StructureError: numbers that are too small.
    """
    table = Table.of(x, inputs, bins)
    search = _Independence(table, min_rows=min_rows, significance=significance, clusters=clusters, seed=seed)
    return search.circuit(pseudocount)


class _Independence(RegionSearch):
    """Independent columns become factors, clusters of dependent ones branches."""

    def region(self, rows: Int[Tensor, " N"], variables: list[int]) -> int:
        if len(variables) == 1:
            return self.input(rows, variables[0])
        if len(rows) < self.min_rows:
            return self.factorised(rows, variables)
        parts = self.independent(rows, variables)
        if len(parts) > 1:
            return self.add(Region.split([self.region(rows, part) for part in parts]))
        groups = self.clusters(rows, variables)
        if len(groups) < 2:
            return self.factorised(rows, variables)
        children = [self.region(group, variables) for group in groups]
        place = self.add(Region.split(*((child,) for child in children)))
        self.shares[place] = [float(len(group)) for group in groups]
        return place
