"""Soft evidence under which a circuit has given marginals: the information projection, by iterative proportional
fitting.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcircuits.errors import ShapeError, StructureError
from pcircuits.evaluator import level_weights, upward
from pcircuits.evidence import Evidence, describe
from pcircuits.plan import Gather, InputLevel, MixingLevel, Plan
from pcircuits.semiring import Scaled
from pcircuits.types import Bool, Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

Node = tuple[int, int]  # level and row


@torch.no_grad()
def match_marginals(
    circuit: "Circuit", evidence: Evidence, log_targets: Float[Tensor, "B D V"], *, sweeps: int = 1
) -> Evidence:
    """Soft evidence at the unobserved variables under which the posterior's marginals approach `exp(log_targets)`.

    Each step sets one variable's weights to `target / message`, with the message the circuit's distribution of that
    variable under all other evidence: its marginal then is exact, and steps over all variables in turn converge to the
    information projection of the targets on the circuit (iterative proportional fitting, Deming and Stephan 1940;
    Csiszar 1975). In a tree-shaped circuit a sweep over all variables costs one upward and one downward pass; other
    circuits are re-evaluated for each variable.

    Args:
        evidence: hard evidence where observed; its weights elsewhere are where the iteration starts.
        log_targets: (B, D, V) log probabilities, read at unobserved variables. Values that the circuit excludes keep
            weight zero.
        sweeps: over all variables.

    Raises:
        StructureError: a circuit with variables that are not discrete with equally many values.
        ShapeError: targets of another shape, or `sweeps` below 1.
    """
    if circuit.num_categories is None:
        raise StructureError("match_marginals needs discrete variables with equally many values")
    if not isinstance(log_targets, Tensor) or log_targets.shape != (*evidence.values.shape, circuit.num_categories):
        raise ShapeError(
            f"`log_targets` must have shape {(*evidence.values.shape, circuit.num_categories)}, "
            f"got {describe(log_targets)}"
        )
    if not isinstance(sweeps, int) or sweeps < 1:
        raise ShapeError(f"`sweeps` must be a positive integer, got {sweeps!r}")
    start = torch.zeros_like(log_targets) if evidence.log_weights is None else evidence.log_weights
    current = Evidence(evidence.values, observed=evidence.observed, log_weights=start.clone())
    if _is_tree(circuit.plan):
        _Walk(circuit.plan, circuit.prepared(), current, log_targets, circuit.dtype).run(sweeps)
    else:
        for _ in range(sweeps):
            for variable in range(circuit.num_variables):
                _refit(circuit, current, log_targets, variable)
    return current


def _refit(circuit: "Circuit", current: Evidence, log_targets: Tensor, variable: int) -> None:
    marginal = circuit.condition(current).marginals()
    assert isinstance(marginal, Tensor) and current.log_weights is not None
    weights = current.log_weights[:, variable]
    ratio = log_targets[:, variable] - marginal[:, variable].log().to(weights.dtype)
    weights.copy_(torch.where(weights.isneginf() | marginal[:, variable].eq(0), -torch.inf, weights + ratio))


def _is_tree(plan: Plan) -> bool:
    """Every region has one parent and one partition, so that each variable is reached on one path."""
    mixing = any(
        isinstance(level, MixingLevel) or getattr(level, "product", "") == "kronecker" for level in plan.levels
    )
    inputs = [v for level in plan.levels if isinstance(level, InputLevel) for v in level.variables]
    return not mixing and len(inputs) == len(set(inputs)) and all(i.is_permutation for i in plan.incoming)


class _Walk:
    """Visits the inputs of a tree-shaped plan in turn, keeping inside values and the outside message of the visited
    path right.
    """

    def __init__(
        self, plan: Plan, prepared: Mapping[str, Any], current: Evidence, log_targets: Tensor, dtype: torch.dtype
    ) -> None:
        self.plan, self.prepared, self.current, self.log_targets = plan, prepared, current, log_targets
        records = upward(plan, prepared, current, Scaled(dtype)).records
        self.inside = {
            (n, row): v for n, record in enumerate(records) for row, v in enumerate(record.values.v.unbind(0))
        }
        self.children = {node: children for n in range(len(plan.levels)) for node, children in _children(plan, n)}
        self.free: Bool[Tensor, "B D"] = ~current.observed

    def run(self, sweeps: int) -> None:
        root = (len(self.plan.levels) - 1, 0)
        for sweep in range(sweeps):
            self._visit_all(root, torch.ones_like(self.inside[root]), keep=sweep < sweeps - 1)

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
        assert isinstance(level, InputLevel) and self.current.log_weights is not None
        variable, free = level.variables[node[1]], self.free[:, level.variables[node[1]]]
        rows = free.nonzero().squeeze(-1)
        if len(rows) == 0:
            return
        table = self.prepared[level.group]
        group_row = int(level.rows[node[1]])
        prediction = message[rows] @ table.linear[group_row].mT
        possible = prediction > 0
        weights = self.log_targets[rows, variable] - torch.where(possible, prediction, 1.0).log()
        weights = torch.where(possible, weights, -torch.inf)
        weights = weights - weights.amax(-1, keepdim=True)
        usable = ~weights.isnan().any(-1)
        rows, weights = rows[usable], weights[usable]
        self.current.log_weights[rows, variable] = weights.to(self.current.log_weights.dtype)
        self.inside[node] = self.inside[node].index_copy(
            0, rows, _peak_one(weights.exp().to(message.dtype) @ table.linear[group_row])
        )

    def _weights(self, node: Node) -> Float[Tensor, "O J"] | None:
        level = self.plan.levels[node[0]]
        assert not isinstance(level, InputLevel)
        if level.weights is None:
            return None
        weights = level_weights(level, self.prepared).linear
        return weights[node[1] if len(weights) > 1 else 0]

    def _through_sum(self, node: Node, message: Tensor) -> Tensor:
        weights = self._weights(node)
        return message if weights is None else _peak_one(message @ weights)

    def _sum(self, node: Node, product: Tensor) -> Tensor:
        weights = self._weights(node)
        return product if weights is None else product @ weights.mT

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


def _peak_one(x: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    peak = x.amax(-1, keepdim=True)
    return x / torch.where(peak > 0, peak, 1.0)
