"""LearnSPN: structure and parameters from independence tests and clusters."""

from collections.abc import Sequence

import networkx as nx
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.distributions import Categorical, Gaussian, InputFamily, Smoothing
from pcircuits.errors import DataError, ParameterError
from pcircuits.evidence import Evidence
from pcircuits.layers import InputGroup, SumGroup
from pcircuits.learning.kmeans import kmeans
from pcircuits.structures import Region, RegionGraph, mutual_information
from pcircuits.structures.templates import as_bins
from pcircuits.structures.validation import require_integer
from pcircuits.types import Float, Int
from pcircuits.workspace import Memory

_FITS = 8  # maximisations of each input: one would do for families with closed forms


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
        DataError, ShapeError, ParameterError: an empty or infinite table, or other than one family a column.
    """
    table = torch.as_tensor(x).double()
    codes = as_bins(table, bins)
    families = _families(table, inputs)
    search = _Search(codes, require_integer("min_rows", min_rows, minimum=2), significance, clusters, seed)
    search.region(torch.arange(len(table)), list(range(table.shape[1])))
    if search.regions[-1].is_input:
        search.add(Region.split((len(search.regions) - 1,)))
    graph = RegionGraph(tuple(search.regions), num_units=1, default_layer="cp-t")
    circuit = Circuit(graph, families, seed=seed)
    _fill(circuit, table, search, pseudocount)
    return circuit


class _Search:
    """Regions children first; the rows that each input region has seen, and how many each partition has."""

    def __init__(self, codes: Int[Tensor, "B D"], min_rows: int, significance: float, clusters: int, seed: int) -> None:
        self.codes, self.min_rows, self.significance = codes, min_rows, significance
        self.clusters, self.seed = clusters, seed
        self.regions: list[Region] = []
        self.seen: dict[int, Tensor] = {}
        self.shares: dict[int, list[int]] = {}

    def region(self, rows: Int[Tensor, " N"], variables: list[int]) -> int:
        if len(variables) == 1:
            return self._input(rows, variables[0])
        if len(rows) < self.min_rows:
            return self._product(rows, [[v] for v in variables])
        parts = self._independent(rows, variables)
        if len(parts) > 1:
            return self._product(rows, parts)
        groups = self._clusters(rows, variables)
        if len(groups) < 2:
            return self._product(rows, [[v] for v in variables])
        children = [self.region(group, variables) for group in groups]
        place = self.add(Region.split(*((child,) for child in children)))
        self.shares[place] = [len(group) for group in groups]
        return place

    def add(self, region: Region) -> int:
        self.regions.append(region)
        return len(self.regions) - 1

    def _input(self, rows: Tensor, variable: int) -> int:
        place = self.add(Region.input(variable))
        self.seen[place] = rows
        return place

    def _product(self, rows: Tensor, parts: list[list[int]]) -> int:
        return self.add(Region.split([self.region(rows, part) for part in parts]))

    def _independent(self, rows: Tensor, variables: list[int]) -> list[list[int]]:
        """Components of the graph of dependent pairs: G = 2 N I against chi-square (Sokal, Rohlf 1981)."""
        codes = self.codes[rows][:, variables]
        sizes = torch.tensor([len(column.unique()) for column in codes.unbind(1)])
        statistic = 2 * len(rows) * mutual_information(codes)
        freedom = ((sizes - 1).unsqueeze(0) * (sizes - 1).unsqueeze(1)).clamp_min(1).double()
        p_values = torch.special.gammaincc(freedom / 2, statistic / 2)
        dependent = (p_values < self.significance).fill_diagonal_(False)
        graph = nx.from_numpy_array(dependent.numpy())
        return [sorted(variables[place] for place in part) for part in nx.connected_components(graph)]

    def _clusters(self, rows: Tensor, variables: list[int]) -> list[Tensor]:
        codes = self.codes[rows][:, variables]
        points = torch.cat([torch.nn.functional.one_hot(column).float() for column in codes.unbind(1)], 1)
        found = min(self.clusters, len(points.unique(dim=0)))
        labels = kmeans(points, found, seed=self.seed).labels
        return [group for n in range(found) if len(group := rows[labels == n])]


def _families(table: Tensor, inputs: InputFamily | Sequence[InputFamily] | None) -> list[InputFamily]:
    if isinstance(inputs, InputFamily):
        return [inputs] * table.shape[1]
    if inputs is not None:
        if len(inputs) != table.shape[1]:
            raise ParameterError(f"`inputs` must give one family for each of {table.shape[1]} columns")
        return list(inputs)
    return [_family(column[~column.isnan()], n) for n, column in enumerate(table.unbind(1))]


def _family(column: Float[Tensor, " N"], number: int) -> InputFamily:
    if not len(column):
        raise DataError(f"column {number} has no values at all")
    whole = bool((column == column.round()).all()) and float(column.min()) >= 0 and float(column.max()) <= 20
    return Categorical(int(column.max()) + 1) if whole else Gaussian.from_data(column)


def _fill(circuit: Circuit, table: Tensor, search: _Search, pseudocount: float) -> None:
    smooth = Smoothing(pseudocount, False, 1.0)
    for region, rows in search.seen.items():
        group, row = _parameters_of(circuit, region, "")
        assert isinstance(group, InputGroup)
        variable = circuit.graph.regions[region].variables[0]
        for name, value in _fit(group.family, table[rows, variable], smooth).items():
            if name not in group.family.fixed:
                group.get_parameter(name)[row] = value[0]
    for region, counts in search.shares.items():
        group, row = _parameters_of(circuit, region, "_mixing")
        assert isinstance(group, SumGroup)
        shares = torch.tensor(counts, dtype=circuit.dtype) + pseudocount / len(counts)
        group.log_weights[row] = (shares / shares.sum()).log()


def _fit(family: InputFamily, column: Float[Tensor, " N"], smooth: Smoothing) -> dict[str, Tensor]:
    evidence = Evidence.from_nan(column.unsqueeze(1)).of_variables((0,))
    parameters = family.initialise(1, 1, torch.Generator().manual_seed(0))
    row, flows = torch.zeros(1, dtype=torch.long), torch.ones(1, len(column), 1)
    for _ in range(_FITS if family.learns_by_em else 0):
        prepared = family.prepare(parameters, None)
        found = family.statistics(prepared, row, evidence, flows, True, Memory())
        parameters = {**parameters, **family.maximise(prepared, found, smooth, None)}
    return parameters


def _parameters_of(circuit: Circuit, region: int, part: str) -> tuple[torch.nn.Module, int]:
    name, row = circuit.plan.rows[region, part]
    return circuit.group(name), row
