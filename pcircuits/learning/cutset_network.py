"""Cutset networks: deterministic circuits learned from data."""

import numpy as np
import torch
from torch import Tensor

from pcircuits.circuit import Circuit
from pcircuits.distributions import Categorical
from pcircuits.layers import InputGroup, SumGroup
from pcircuits.learning.cutset_tree import Growth, Leaf, Split
from pcircuits.statistics import Statistics
from pcircuits.structures import Region, RegionGraph
from pcircuits.structures.mutual_information import as_categories
from pcircuits.structures.validation import require_integer
from pcircuits.workspace import Workspace

_ROWS = 1024


@torch.no_grad()
def cutset_network(
    x: Tensor | np.ndarray,
    *,
    num_categories: int | None = None,
    min_rows: int = 50,
    max_depth: int = 8,
    pseudocount: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Circuit:
    """A cutset network of the data `x` (B, D): an OR-tree that asks one variable after another, with a Chow-Liu tree of
    the remaining variables at each of its leaves (Rahman, Kothalkar, Gogate 2014).

    It is a deterministic circuit: `pc.check` proves it, `mpe` is exact, and one step of EM is maximum likelihood, which
    also sets its parameters here. Nodes are split where that raises the BIC.

    Args:
        x: integer categories; a variable has as many as its largest value says.
        num_categories: V of all inputs, default the largest category plus one.
        min_rows: of each branch. max_depth: splits on a way down.
        pseudocount: samples by which each distribution is smoothed towards a uniform one.

    Raises:
        DataError, ShapeError: data that is not integer categories.
    """
    codes = as_categories(x, num_categories)
    sizes = tuple((codes.amax(0) + 1).tolist())
    values = max(*sizes, 2) if num_categories is None else num_categories
    growth = Growth(
        sizes,
        require_integer("min_rows", min_rows, minimum=1),
        require_integer("max_depth", max_depth, minimum=0),
        1e-2,
    )
    drawing = _Drawing(growth.grow(codes, list(range(codes.shape[1]))))
    graph = RegionGraph(tuple(drawing.regions), num_units=values, default_layer="cp-t")
    circuit = Circuit(graph, Categorical(values), seed=0, dtype=dtype).to(codes.device)
    _restrict(circuit, drawing, sizes)
    circuit.maximise(_counts(circuit, codes), pseudocount=pseudocount)
    return circuit


def _counts(circuit: Circuit, codes: Tensor) -> Statistics:
    """Of all rows, some at a time: a deep network holds thousands of values a row."""
    workspace = Workspace()
    first, *rest = codes.split(_ROWS)
    total = circuit.statistics(first) * 1.0
    for rows in rest:
        total = total + circuit.statistics(rows, workspace=workspace)
    return total


class _Drawing:
    """Regions of an OR-tree, children first. `only[r]`: the one value of an input region; `splits`: regions with one
    partition a value; `trees[r]`: the variable whose conditional table the sum of region r is.
    """

    def __init__(self, root: Leaf | Split) -> None:
        self.regions: list[Region] = []
        self.only: dict[int, int] = {}
        self.splits: list[int] = []
        self.trees: dict[int, int] = {}
        self._draw(root)

    def _draw(self, node: Leaf | Split) -> int:
        if isinstance(node, Split):
            pairs = [(self._value(node.variable, n), self._draw(branch)) for n, branch in enumerate(node.branches)]
            self.splits.append(self._add(Region.split(*pairs)))
            return self.splits[-1]
        region_of: dict[int, int] = {}
        for _, variable in reversed(node.edges):
            below = [region_of[child] for parent, child in node.edges if parent == variable]
            region_of[variable] = self._add(Region.split((self._add(Region.input(variable)), *below)))
            self.trees[region_of[variable]] = variable
        return region_of[node.edges[0][1]]

    def _value(self, variable: int, value: int) -> int:
        region = self._add(Region.input(variable))
        self.only[region] = value
        return region

    def _add(self, region: Region) -> int:
        self.regions.append(region)
        return len(self.regions) - 1


def _restrict(circuit: Circuit, drawing: _Drawing, sizes: tuple[int, ...]) -> None:
    """Inputs become indicators, of one value or unit k of value k; sums of branches read their first unit; tables have
    no more columns than values; all weights start equal.
    """
    masks: dict[str, Tensor] = {}
    for name, group in circuit.named_groups():
        if isinstance(group, SumGroup):
            group.log_weights.zero_()
            masks[name] = torch.ones_like(group.log_weights, dtype=torch.bool)
        elif isinstance(group, InputGroup):
            eye = torch.eye(circuit.num_units, dtype=torch.bool, device=circuit.device)
            masks[name] = eye.repeat(len(group.get_parameter("logits")), 1, 1)
    rows = circuit.plan.rows
    for region, value in drawing.only.items():
        group_name, row = rows[region, ""]
        masks[group_name][row] = torch.arange(circuit.num_units, device=circuit.device) == value
    for region, variable in drawing.trees.items():
        group_name, row = rows[region, ""]
        masks[group_name][row, :, sizes[variable] :] = False
    for region in drawing.splits:
        for n in range(len(circuit.graph.regions[region].partitions)):
            group_name, row = rows[region, f"_{n}" if n else ""]
            masks[group_name][row, :, 1:] = False
    for name, group in circuit.named_groups():
        group.restrict(masks[name])
