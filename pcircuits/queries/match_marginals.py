"""Soft evidence under which a circuit has given marginals: the information projection, by iterative proportional
fitting.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pcircuits.errors import EvidenceError, ShapeError, StructureError
from pcircuits.evaluator import level_weights, upward
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.kernels import finite, linear_sum
from pcircuits.plan import Gather, InputLevel, MixingLevel, Plan
from pcircuits.semiring import Gates, Scaled, SumWeights
from pcircuits.types import Bool, Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

Node = tuple[int, int]  # level and row


class Projection(NamedTuple):
    """Soft evidence, the largest total variation between a row's marginals and its targets (B,), the sweeps that were
    made, and the rows (B,) where that distance came down to the tolerance.
    """

    evidence: Evidence
    gap: Float[Tensor, " B"]
    sweeps: int
    converged: Bool[Tensor, " B"]


@torch.no_grad()
def project_marginals(
    circuit: "Circuit",
    evidence: Evidence,
    log_targets: Float[Tensor, "B D V"],
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 200,
) -> Projection:
    """`match_marginals` until every unobserved variable's marginal is within `tolerance` total variation of its target:
    the information projection of the targets on the circuit, with its certificate.

    Raises:
        EvidenceError: a target that is positive where the circuit's support makes every probability zero.
        StructureError, ShapeError: as `match_marginals`.
    """
    _validate(circuit, evidence, log_targets, max_sweeps)
    if not tolerance > 0:
        raise ShapeError(f"`tolerance` must be positive, got {tolerance!r}")
    _require_reachable(circuit, evidence, log_targets)
    current, free, sweeps = evidence, ~evidence.observed, 0
    gap = log_targets.new_full(free.shape[:1], torch.inf)
    while sweeps < max_sweeps and (gap > tolerance).any():
        current, sweeps = match_marginals(circuit, current, log_targets), sweeps + 1
        distance = (_marginals(circuit, current) - log_targets.exp()).abs().sum(-1) / 2
        gap = distance.masked_fill(~free, 0.0).amax(-1)
    return Projection(current, gap, sweeps, gap <= tolerance)


def match_marginals(
    circuit: "Circuit", evidence: Evidence, log_targets: Float[Tensor, "B D V"], *, sweeps: int = 1
) -> Evidence:
    """Soft evidence at the unobserved variables under which the posterior's marginals approach `exp(log_targets)`.

    Each step sets one variable's weights to `target / message`, with the message the circuit's distribution of that
    variable under all other evidence: its marginal then is exact, and steps over all variables in turn converge to the
    information projection of the targets on the circuit (iterative proportional fitting, Deming and Stephan 1940;
    Csiszar 1975). In a tree-shaped circuit a sweep over all variables costs one upward and one downward pass; other
    circuits are re-evaluated for each variable.

    With gradients enabled the weights are differentiable functions of the circuit's parameters, potentials and targets.

    Args:
        evidence: hard evidence where observed, latent potentials and gates; its weights elsewhere are where the
            iteration starts.
        log_targets: (B, D, V) log probabilities, read at unobserved variables. Values that the circuit excludes keep
            weight zero.
        sweeps: over all variables.

    Raises:
        StructureError: a circuit with variables that are not discrete with equally many values.
        ShapeError: targets of another shape, or `sweeps` below 1.
    """
    _validate(circuit, evidence, log_targets, sweeps)
    start = torch.zeros_like(log_targets) if evidence.log_weights is None else evidence.log_weights
    current = evidence.replace(log_weights=start)
    if _is_tree(circuit.plan):
        return _Walk(circuit.plan, circuit.prepared(), current, log_targets, circuit.dtype).run(sweeps)
    for _ in range(sweeps):
        for variable in range(circuit.num_variables):
            current = _refit(circuit, current, log_targets, variable)
    return current


def _validate(circuit: "Circuit", evidence: Evidence, log_targets: Tensor, sweeps: int) -> None:
    if circuit.num_categories is None:
        raise StructureError("match_marginals needs discrete variables with equally many values")
    if not isinstance(log_targets, Tensor) or log_targets.shape != (*evidence.values.shape, circuit.num_categories):
        raise ShapeError(
            f"`log_targets` must have shape {(*evidence.values.shape, circuit.num_categories)}, "
            f"got {describe(log_targets)}"
        )
    if not isinstance(sweeps, int) or sweeps < 1:
        raise ShapeError(f"the number of sweeps must be a positive integer, got {sweeps!r}")


def _require_reachable(circuit: "Circuit", evidence: Evidence, log_targets: Tensor) -> None:
    """Every value with a positive target must be possible together with other such values."""
    wanted = ~log_targets.isneginf() & ~evidence.observed.unsqueeze(-1)
    support = torch.zeros_like(log_targets).masked_fill(~wanted, -torch.inf)
    posterior = circuit.condition(evidence.replace(log_weights=support))
    possible = ~posterior.log_evidence.isneginf()
    lost = ~possible
    if possible.any():
        marginals = _marginals(circuit, posterior.evidence.rows(possible))
        lost[possible] = (wanted[possible] & marginals.eq(0)).flatten(1).any(1)
    if lost.any():
        raise EvidenceError(
            f"the targets give probability to values that the circuit excludes in batch rows {rows_of(lost)}; "
            "no weights reach these marginals"
        )


def _marginals(circuit: "Circuit", evidence: Evidence) -> Float[Tensor, "B D V"]:
    marginals = circuit.condition(evidence).marginals()
    assert isinstance(marginals, Tensor)
    return marginals


def _refit(circuit: "Circuit", current: Evidence, log_targets: Tensor, variable: int) -> Evidence:
    assert current.log_weights is not None
    marginal, weights = _marginals(circuit, current)[:, variable], current.log_weights[:, variable]
    possible = ~weights.isneginf() & (marginal > 0)
    change = log_targets[:, variable] - torch.where(possible, marginal, 1.0).log().to(weights.dtype)
    new = torch.where(possible, finite(weights) + change, -torch.inf)
    return current.replace(log_weights=_with_column(current.log_weights, variable, new))


def _with_column(log_weights: Tensor, variable: int, column: Tensor) -> Tensor:
    index = torch.tensor([variable], device=column.device)
    return log_weights.index_copy(1, index, column.unsqueeze(1))


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
        assert current.log_weights is not None
        self.columns = list(current.log_weights.unbind(1))

    def run(self, sweeps: int) -> Evidence:
        root = (len(self.plan.levels) - 1, 0)
        for sweep in range(sweeps):
            self._visit_all(root, torch.ones_like(self.inside[root]), keep=sweep < sweeps - 1)
        return self.current.replace(log_weights=torch.stack(self.columns, 1))

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
        potentials = self._potentials(variable, rows)
        prediction = (message[rows] * potentials) @ table.mT
        possible = prediction > 0
        weights = self.log_targets[rows, variable] - torch.where(possible, prediction, 1.0).log()
        weights = torch.where(possible, weights, -torch.inf)
        usable = ~weights.isneginf().all(-1)
        rows, weights = rows[usable], weights[usable]
        weights = weights - weights.detach().amax(-1, keepdim=True)
        self.columns[variable] = self.columns[variable].index_copy(0, rows, weights.to(self.columns[variable].dtype))
        values = weights.exp().to(message.dtype) @ table * potentials[usable]
        self.inside[node] = self.inside[node].index_copy(0, rows, _peak_one(values))

    def _potentials(self, variable: int, rows: Tensor) -> Float[Tensor, "R K"]:
        latent = self.current.latent
        if latent is None:
            return self.log_targets.new_ones(len(rows), 1)
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
        gates = None if weights.gates is None else Gates(*(x[row] for x in weights.gates))
        return SumWeights(weights.log, weights.linear[row if len(weights.linear) > 1 else slice(1)], gates)

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


def _peak_one(x: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    peak = x.detach().amax(-1, keepdim=True)
    return x / torch.where(peak > 0, peak, 1.0)
