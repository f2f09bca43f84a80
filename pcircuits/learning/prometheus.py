"""Prometheus: structure and parameters from clusters of rows and spanning trees of columns."""

import itertools
from collections.abc import Sequence
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.learning.region_search import RegionSearch, Table
from pcircuits.structures import Region, mutual_information
from pcircuits.structures.chow_liu import maximum_spanning_tree
from pcircuits.structures.validation import require_integer
from pcircuits.types import Int

_SIGNIFICANCE = 1e-3
_BINS = 5  # values of equal shares that columns are cut into, for clusters and affinities


@torch.no_grad()
def prometheus(
    x: Tensor,
    inputs: InputFamily | Sequence[InputFamily] | None = None,
    *,
    min_rows: int = 30,
    partitions: int = 3,
    max_depth: int = 3,
    clusters: int = 2,
    pseudocount: float = 0.1,
    seed: int = 0,
) -> Circuit:
    """A circuit of the table `x` (B, D), whose columns may be of different kinds and have missing values (NaN), by
    Prometheus (Jaini, Ghose, Poupart 2018): rows are clustered by k-means, and in each cluster the maximum spanning
    tree of the columns, by mutual information, is cut at its weakest edges one after another. What each cut leaves is a
    partition of the columns; all partitions of all clusters are mixed, and each of their parts goes on with the rows of
    its cluster. Partitions of one cluster share the parts that they have in common: the circuit is no tree.

    No threshold says where columns are cut. But rows are only clustered for columns that depend on each other: those
    that no chain of G-tests at 0.1% connects are factors, as of `learn_spn`.

    Regions have one unit each; the parameters are those of the rows that each part has seen, ready for `fit` to refine.
    There are up to `O(D (clusters partitions)^max_depth)`.

    Args:
        inputs, clusters, pseudocount: as of `learn_spn`.
        min_rows: parts with fewer rows are factorised completely.
        partitions: of each cluster's columns, at most: cuts of its tree.
        max_depth: how often rows are clustered on a way down, at most.

    Raises:
        DataError, ShapeError: an empty or infinite table. ParameterError: other than one family a column, or a
            probability or number of samples that is none. StructureError: numbers that are too small.
    """
    table = Table.of(x, inputs, _BINS)
    options = {"min_rows": min_rows, "significance": _SIGNIFICANCE, "clusters": clusters, "seed": seed}
    return _SpanningTrees(table, partitions, max_depth, **options).circuit(pseudocount)


class _SpanningTrees(RegionSearch):
    """Clusters of rows, of which each has several partitions of the columns."""

    def __init__(self, table: Table, partitions: int, max_depth: int, **options: Any) -> None:
        super().__init__(table, **options)
        self.num_partitions = require_integer("partitions", partitions, minimum=1)
        self.max_depth = require_integer("max_depth", max_depth, minimum=0)

    def region(self, rows: Int[Tensor, " N"], variables: list[int], depth: int = 0) -> int:
        if len(variables) == 1:
            return self.input(rows, variables[0])
        if not self._goes_on(rows, depth):
            return self.factorised(rows, variables)
        parts = self.independent(rows, variables)
        if len(parts) > 1:
            return self.add(Region.split([self.region(rows, part, depth) for part in parts]))
        groups = self.clusters(rows, variables)
        if len(groups) < 2:
            return self.factorised(rows, variables)
        partitions, counts = list[list[int]](), list[float]()
        for group in groups:
            found = self._partitions(group, variables, depth + 1)
            partitions += found
            counts += [len(group) / len(found)] * len(found)
        place = self.add(Region.split(*partitions))
        self.shares[place] = counts
        return place

    def _goes_on(self, rows: Tensor, depth: int) -> bool:
        return depth < self.max_depth and len(rows) >= self.min_rows

    def _partitions(self, rows: Tensor, variables: list[int], depth: int) -> list[list[int]]:
        """The regions of each partition of one cluster's columns; parts that would all be factorised need only one."""
        if not self._goes_on(rows, depth) or len(self.independent(rows, variables)) == len(variables):
            return [[self.input(rows, v) for v in variables]]
        cuts, known = self._cuts(rows, variables), dict[tuple[int, ...], int]()
        for part in itertools.chain.from_iterable(cuts):
            if part not in known:
                known[part] = self.region(rows, list(part), depth)
        return [[known[part] for part in parts] for parts in cuts]

    def _cuts(self, rows: Tensor, variables: list[int]) -> list[list[tuple[int, ...]]]:
        """What the spanning tree falls into without its weakest edge, its two weakest, and so on."""
        tree = maximum_spanning_tree(mutual_information(self.table.codes[rows][:, variables]).numpy())
        found = []
        for edge in sorted(tree.edges, key=lambda pair: tree.edges[pair]["weight"])[: self.num_partitions]:
            tree.remove_edge(*edge)
            found.append([tuple(sorted(variables[v] for v in part)) for part in nx.connected_components(tree)])
        return found
