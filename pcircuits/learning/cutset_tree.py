"""The OR-tree of a cutset network, grown on data."""

import math
from dataclasses import dataclass

import networkx as nx
import torch

from pcircuits.structures import chow_liu_tree, mutual_information
from pcircuits.structures.chow_liu import maximum_spanning_tree
from pcircuits.types import Float, Int, Tensor

_CANDIDATES = 4  # variables that a split is tried on at each node: those that tell most about the others


@dataclass(frozen=True)
class Leaf:
    """A tree over variables, from its root down: pairs of parent (None for the root) and child."""

    edges: tuple[tuple[int | None, int], ...]


@dataclass(frozen=True)
class Split:
    """One branch for each value of a variable."""

    variable: int
    branches: tuple["Leaf | Split", ...]


@dataclass(frozen=True)
class Growth:
    """When a node is split further: at least `min_rows` rows in each branch, at most `max_depth` splits on a way, and
    a gain in log likelihood that is above half the logarithm of the rows for each parameter (BIC; Schwarz 1978).
    """

    sizes: tuple[int, ...]
    min_rows: int
    max_depth: int
    smoothing: float

    def grow(self, x: Int[Tensor, "N D"], variables: list[int], depth: int = 0) -> Leaf | Split:
        information = self._information(x, variables)
        if len(variables) == 1 or depth == self.max_depth or len(x) < 2 * self.min_rows:
            return self._leaf(x, variables)
        best, chosen = self._score(x, variables, information), None
        pairs = information - torch.diag(information.diagonal())
        for place in pairs.sum(1).argsort(descending=True)[:_CANDIDATES].tolist():
            score = self._split_score(x, variables, variables[place])
            if score > best:
                best, chosen = score, variables[place]
        if chosen is None:
            return self._leaf(x, variables)
        rest = [v for v in variables if v != chosen]
        parts = [x[x[:, chosen] == value] for value in range(self.sizes[chosen])]
        return Split(chosen, tuple(self.grow(part, rest, depth + 1) for part in parts))

    def _leaf(self, x: Tensor, variables: list[int]) -> Leaf:
        tree = chow_liu_tree(x[:, variables], num_categories=max(self.sizes), smoothing=self.smoothing)
        order = nx.topological_sort(tree)
        parents = {place: next(iter(tree.predecessors(place)), None) for place in order}
        return Leaf(tuple((None if p is None else variables[p], variables[v]) for v, p in parents.items()))

    def _information(self, x: Tensor, variables: list[int]) -> Float[Tensor, "D D"]:
        return mutual_information(x[:, variables], num_categories=max(self.sizes), smoothing=self.smoothing)

    def _score(self, x: Tensor, variables: list[int], information: Tensor | None = None) -> float:
        """Log likelihood of a Chow-Liu tree, less its penalty."""
        found = self._information(x, variables) if information is None else information
        tree = maximum_spanning_tree(found.cpu().numpy())
        fit = sum(float(tree.edges[edge]["weight"]) for edge in tree.edges) - float(found.diagonal().sum())
        sizes = {place: self.sizes[v] for place, v in enumerate(variables)}
        free = sum((sizes[a] - 1) * (sizes[b] - 1) for a, b in tree.edges) + sum(s - 1 for s in sizes.values())
        return len(x) * fit - self._penalty(len(x), free)

    def _split_score(self, x: Tensor, variables: list[int], variable: int) -> float:
        rest = [v for v in variables if v != variable]
        parts = [x[x[:, variable] == value] for value in range(self.sizes[variable])]
        if min(map(len, parts)) < self.min_rows:
            return -math.inf
        entropy = sum(len(part) * math.log(len(part) / len(x)) for part in parts)
        return entropy + sum(self._score(part, rest) for part in parts) - self._penalty(len(x), len(parts) - 1)

    def _penalty(self, rows: int, parameters: int) -> float:
        return 0.5 * math.log(max(rows, 2)) * parameters
