"""What structure learners of tables share: regions found among rows, and the circuit of the rows that each has seen."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

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


class Table(NamedTuple):
    """Rows with missing values (NaN), a family a column, and all columns as codes, for tests and clusters."""

    values: Float[Tensor, "B D"]
    families: list[InputFamily]
    codes: Int[Tensor, "B D"]

    @classmethod
    def of(cls, x: Tensor, inputs: InputFamily | Sequence[InputFamily] | None, bins: int) -> "Table":
        values = torch.as_tensor(x).double()
        codes = as_bins(values, bins)
        return cls(values, _families(values, inputs), codes)


class RegionSearch(ABC):
    """Regions children first; the rows that each input region has seen, and the samples that each partition of a region
    counts for.
    """

    def __init__(self, table: Table, *, min_rows: int, significance: float, clusters: int, seed: int) -> None:
        if not 0 <= significance <= 1:
            raise ParameterError(f"`significance` must be from 0 to 1, got {significance!r}")
        self.table, self.significance, self.seed = table, significance, seed
        self.min_rows = require_integer("min_rows", min_rows, minimum=2)
        self.num_clusters = require_integer("clusters", clusters, minimum=1)
        self.regions: list[Region] = []
        self.seen: dict[int, Tensor] = {}
        self.shares: dict[int, list[float]] = {}

    @abstractmethod
    def region(self, rows: Int[Tensor, " N"], variables: list[int]) -> int:
        """The region of some rows and columns, added after all that is below it."""

    def circuit(self, pseudocount: float) -> Circuit:
        """Of all rows and columns: one unit a region, with parameters of what each has seen."""
        if not 0 <= pseudocount < math.inf:
            raise ParameterError(f"`pseudocount` must be at least 0 and finite, got {pseudocount!r}")
        rows, columns = self.table.values.shape
        self.region(torch.arange(rows), list(range(columns)))
        if self.regions[-1].is_input:
            self.add(Region.split((len(self.regions) - 1,)))
        graph = RegionGraph(tuple(self.regions), num_units=1, default_layer="cp-t")
        circuit = Circuit(graph, self.table.families, seed=self.seed)
        self._fill(circuit, pseudocount)
        return circuit

    def add(self, region: Region) -> int:
        self.regions.append(region)
        return len(self.regions) - 1

    def input(self, rows: Tensor, variable: int) -> int:
        place = self.add(Region.input(variable))
        self.seen[place] = rows
        return place

    def factorised(self, rows: Tensor, variables: list[int]) -> int:
        return self.add(Region.split([self.input(rows, v) for v in variables]))

    def independent(self, rows: Tensor, variables: list[int]) -> list[list[int]]:
        """Components of the graph of dependent pairs: G = 2 N I against chi-square (Sokal, Rohlf 1981)."""
        codes = self.table.codes[rows][:, variables]
        sizes = torch.tensor([len(column.unique()) for column in codes.unbind(1)])
        statistic = 2 * len(rows) * mutual_information(codes)
        freedom = ((sizes - 1).unsqueeze(0) * (sizes - 1).unsqueeze(1)).clamp_min(1).double()
        p_values = torch.special.gammaincc(freedom / 2, statistic / 2)
        dependent = (p_values < self.significance).fill_diagonal_(False)
        graph = nx.from_numpy_array(dependent.numpy())
        return [sorted(variables[place] for place in part) for part in nx.connected_components(graph)]

    def clusters(self, rows: Tensor, variables: list[int]) -> list[Tensor]:
        """The rows by k-means of their one-hot codes."""
        codes = self.table.codes[rows][:, variables]
        points = torch.cat([torch.nn.functional.one_hot(column).float() for column in codes.unbind(1)], 1)
        found = min(self.num_clusters, len(points.unique(dim=0)))
        labels = kmeans(points, found, seed=self.seed).labels
        return [group for n in range(found) if len(group := rows[labels == n])]

    def _fill(self, circuit: Circuit, pseudocount: float) -> None:
        smooth = Smoothing(pseudocount, False, 1.0)
        for region, rows in self.seen.items():
            group, row = _parameters_of(circuit, region, "")
            assert isinstance(group, InputGroup)
            variable = circuit.graph.regions[region].variables[0]
            for name, value in _fit(group.family, self.table.values[rows, variable], smooth).items():
                if name not in group.family.fixed:
                    group.get_parameter(name)[row] = value[0]
        for region, counts in self.shares.items():
            group, row = _parameters_of(circuit, region, "_mixing")
            assert isinstance(group, SumGroup)
            shares = torch.tensor(counts, dtype=circuit.dtype) + pseudocount / len(counts)
            group.log_weights[row] = (shares / shares.sum()).log()


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
