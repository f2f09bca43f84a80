"""Complete values of a tree's variables, looked up in its tables and counted."""

from typing import NamedTuple

import torch

from pcircuits.distributions.tree_messages import Tree
from pcircuits.distributions.tree_shape import TreeShape
from pcircuits.types import Float, Int, Tensor


class Lookup(NamedTuple):
    """Of each sample, the entry of the root's table and of each other one, table by table, end to end."""

    categories: int
    places: list[Int[Tensor, "F B"]]

    @classmethod
    def of(cls, values: Int[Tensor, "F M B"], shape: TreeShape, categories: int) -> "Lookup":
        parents = [(m, p) for m, p in enumerate(shape.parents) if p >= 0]
        pairs = [values[:, p] * categories + values[:, m] for m, p in parents]
        return cls(categories, [values[:, shape.root], *pairs])

    def log_value(self, tree: Tree) -> Float[Tensor, "F B K"]:
        """Of units with tables (F, K, ...)."""
        tables = [tree.root, *tree.links.flatten(-2).unbind(2)]
        each = [
            table.gather(-1, self._of_units(at, table.shape[1])) for table, at in zip(tables, self.places, strict=True)
        ]
        return torch.stack(each).sum(0).mT

    def counts(self, flows: Float[Tensor, "F B K"]) -> Float[Tensor, "F K S"]:
        """Flows added up by place, in float64: of the root's values, then of pairs."""
        found, units = [], flows.shape[-1]
        for table, at in enumerate(self.places):
            size = self.categories ** (2 if table else 1)
            empty = flows.new_zeros(len(flows), units, size, dtype=torch.float64)
            found.append(empty.scatter_add(-1, self._of_units(at, units), flows.double().mT))
        return torch.cat(found, -1)

    @staticmethod
    def _of_units(at: Int[Tensor, "F B"], units: int) -> Int[Tensor, "F K B"]:
        return at.unsqueeze(1).expand(-1, units, -1)
