"""A walk through the inputs of a tree-shaped circuit that sets the weights of one after the other."""

import math
from typing import TYPE_CHECKING

import torch

from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.kernels import finite, linear_sum
from pcircuits.levels import level_weights
from pcircuits.plan import Gather, InputLevel, MixingLevel, Plan
from pcircuits.queries.matching_fits import Fit
from pcircuits.semirings import Scaled, SumWeights
from pcircuits.types import Bool, Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

Node = tuple[int, int]  # level and row


def is_tree(plan: Plan) -> bool:
    """Every region has one parent and one partition, so that each variable is reached on one path."""
    mixing = any(
        isinstance(level, MixingLevel) or getattr(level, "product", "") == "kronecker" for level in plan.levels
    )
    inputs = [v for level in plan.levels if isinstance(level, InputLevel) for v in level.variables]
    return not mixing and len(inputs) == len(set(inputs)) and all(i.target is None for i in plan.incoming)


class Walk:
    """Visits the inputs of a tree-shaped plan in turn, keeping inside values and the outside message of the visited
    path right.
    """

    def __init__(self, circuit: "Circuit", current: Evidence, fit: Fit) -> None:
        self.plan, self.prepared, self.current, self.fit = circuit.plan, circuit.prepared(), current, fit
        records = upward(self.plan, self.prepared, current, Scaled(circuit.dtype)).records
        self.inside = {
            (n, row): v
            for n, record in enumerate(records)
            for row, v in enumerate(_peak_one(record.values.v).unbind(0))
        }
        self.children = {
            node: children for n in range(len(self.plan.levels)) for node, children in _children(self.plan, n)
        }
        self.free: Bool[Tensor, "B D"] = ~current.observed

    def run(self, sweeps: int) -> Evidence:
        """That many visits of every input."""
        root = (len(self.plan.levels) - 1, 0)
        for sweep in range(sweeps):
            self._visit_all(root, torch.ones_like(self.inside[root]), keep=sweep < sweeps - 1)
        return self.fit.evidence()

    def _visit_all(self, root: Node, outside: Tensor, keep: bool) -> None:
        """Depth first, without recursion. `keep`: whether a node's inside value is read again after its visit."""
        stack: list[tuple[Node, Tensor, int, bool]] = [(root, outside, 0, keep)]
        while stack:
            node, message, position, needed = stack.pop()
            children = self.children[node]
            if not children:
                self._visit_input(node, message)
            elif position < len(children):
                if position == 0:
                    message = self._through_sum(node, message)
                stack.append((node, message, position + 1, needed))
                below = _peak_one(message * self._product(children[:position] + children[position + 1 :]))
                stack.append((children[position], below, 0, needed or position < len(children) - 1))
            elif needed:
                self.inside[node] = _peak_one(self._sum(node, self._product(children)))

    def _visit_input(self, node: Node, message: Float[Tensor, "B K"]) -> None:
        level = self.plan.levels[node[0]]
        assert isinstance(level, InputLevel)
        variable = level.variables[node[1]]
        rows = self.free[:, variable].nonzero().squeeze(-1)
        if len(rows) == 0:
            return
        table = self.prepared[level.group].linear[int(level.rows[node[1]])]
        potentials = self._potentials(variable, rows, message)
        usable, values = self.fit.values(variable, rows, table, message[rows] * potentials)
        values = values * (potentials if len(potentials) == 1 else potentials[usable])
        self.inside[node] = self.inside[node].index_copy(0, rows[usable], _peak_one(values))

    def _potentials(self, variable: int, rows: Tensor, like: Tensor) -> Float[Tensor, "R K"]:
        latent = self.current.latent
        if latent is None:
            return like.new_ones(1, 1)
        log = latent[rows, variable]
        return (log - finite(log.detach().amax(-1, keepdim=True))).exp()

    def _weights(self, node: Node) -> SumWeights | None:
        """Of one row of a level."""
        level = self.plan.levels[node[0]]
        assert not isinstance(level, InputLevel)
        if level.weights is None:
            return None
        weights = level_weights(level, self.prepared, self.current)
        row = slice(node[1], node[1] + 1)
        gates = None if weights.gates is None else weights.gates.row(row)
        return weights._replace(linear=weights.linear[row if len(weights.linear) > 1 else slice(1)], gates=gates)

    def _through_sum(self, node: Node, message: Tensor) -> Tensor:
        weights = self._weights(node)
        if weights is None:
            return message
        gates = None if weights.gates is None else weights.gates.linear.mT
        return _peak_one(linear_sum(weights.linear.mT, message.unsqueeze(0), gates)[0])

    def _sum(self, node: Node, product: Tensor) -> Tensor:
        weights = self._weights(node)
        if weights is None:
            return product
        gates = None if weights.gates is None else weights.gates.linear
        return linear_sum(weights.linear, product.unsqueeze(0), gates)[0]

    def _product(self, nodes: list[Node]) -> Tensor:
        return math.prod((self.inside[node] for node in nodes), start=torch.ones(()))


def _children(plan: Plan, n: int) -> list[tuple[Node, list[Node]]]:
    level = plan.levels[n]
    gathers = () if isinstance(level, InputLevel) else level.children
    columns = [_nodes(g, plan) for g in gathers]
    return [((n, row), [column[row] for column in columns]) for row in range(level.num_rows)]


def _nodes(g: Gather, plan: Plan) -> list[Node]:
    found = []
    for part in g.parts:
        rows = torch.arange(plan.levels[part.level].num_rows)
        index = part.index.cpu() if isinstance(part.index, Tensor) else part.index
        found += [(part.level, r) for r in (rows if index is None else rows[index]).tolist()]
    return found if g.order is None else [found[i] for i in g.order.tolist()]


def _peak_one(x: Float[Tensor, "*F B K"]) -> Float[Tensor, "*F B K"]:
    peak = x.detach().amax(-1, keepdim=True)
    return x / torch.where(peak > 0, peak, 1.0)
