"""A second reading of a circuit: region by region, float64 logarithms, no folding; it shares no code with the plan,
the semirings and the evaluator.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.evidence import Evidence
from pcircuits.types import Float, Tensor


class Node(NamedTuple):
    """One vector of units: an input, or a product of children and, with a `group`, the sum over it. `group`, `row`:
    its parameters.
    """

    kind: str  # input, hadamard, kronecker or mixing
    children: tuple[int, ...]
    num_units: int
    variables: tuple[int, ...]
    group: str | None
    row: int

    @property
    def variable(self) -> int:
        """The first variable of an input."""
        return self.variables[0]


Leaf = Callable[[Node], Float[Tensor, "... K"]]


def unfold(circuit: Circuit) -> list[Node]:
    """The nodes of a circuit, children first, the root last."""
    return _Reader(circuit).nodes()


def log_root(
    circuit: Circuit, leaf: Leaf, weights: Leaf | None = None, *, evidence: Evidence | None = None
) -> Float[Tensor, "..."]:
    """The root's log value where `leaf` gives the log values of every input node's units, and `weights` (by default
    the circuit's) every sum node's log weights (O, J): one plain logsumexp a node. Latent potentials and gates of an
    `evidence` put its batch in front.
    """
    values: list[Tensor] = []
    nodes = unfold(circuit)
    for node in nodes:
        if node.kind == "input":
            values.append(leaf(node) + _latent(evidence, node))
            continue
        children = [values[c] for c in node.children]
        gated = [v for c in node.children for v in nodes[c].variables]
        given = None if node.group is None else weights(node) if weights else log_weights(circuit, node)
        if given is not None and node.kind == "hadamard":
            given = given + _log_gates(evidence, node, gated, children)
        values.append(_node_value(node, given, children))
    return values[-1].squeeze(-1)


def _latent(evidence: Evidence | None, node: Node) -> Tensor:
    if evidence is None or evidence.latent is None:
        return torch.zeros((), dtype=torch.float64)
    return evidence.latent[:, list(node.variables)].double().sum(1).unsqueeze(1)


def _log_gates(evidence: Evidence | None, node: Node, variables: list[int], children: list[Tensor]) -> Tensor:
    """What is added to each weight of a node's sum: (B, 1, O, J), one entry at a time."""
    found = torch.zeros((), dtype=torch.float64)
    if evidence is None or not variables or node.num_units == 1:
        return found
    shape = node.num_units, children[0].shape[-1]
    for variable in variables:
        if evidence.gates is not None:
            found = found + _of_blocks(evidence.gates[:, variable].double(), *shape)
        if evidence.gate_factors is not None:
            found = found + _of_factors(evidence.gate_factors[:, variable].double(), *shape)
    return found


def _of_blocks(blocks: Tensor, outputs: int, inputs: int) -> Float[Tensor, "B 1 O J"]:
    size = blocks.shape[-1]
    entries = [[blocks[:, o * size // outputs, j * size // inputs] for j in range(inputs)] for o in range(outputs)]
    return torch.stack([torch.stack(row, -1) for row in entries], -2).unsqueeze(1)


def _of_factors(factors: Tensor, outputs: int, inputs: int) -> Float[Tensor, "B 1 O J"]:
    left, right = factors.unbind(1)
    entries = [[(left[..., o] + right[..., j]).logsumexp(-1) for j in range(inputs)] for o in range(outputs)]
    return torch.stack([torch.stack(row, -1) for row in entries], -2).unsqueeze(1)


def log_weights(circuit: Circuit, node: Node) -> Float[Tensor, "O J"]:
    """Normalised log weights of a node's sum, in float64; `-inf` outside the support."""
    group = circuit.groups[str(node.group)]
    raw = group.log_weights.detach().double()[node.row]  # type: ignore[operator]
    if group.support is not None:
        raw = raw.masked_fill(~group.support[node.row], -torch.inf)  # type: ignore[index]
    return raw - raw.logsumexp(-1, keepdim=True)


def leaf_parameters(circuit: Circuit, node: Node) -> dict[str, Tensor]:
    """One input node's unconstrained parameters, each (K, ...) in float64, and its `support` if it has one."""
    group = circuit.groups[str(node.group)]
    fixed = {name: group.get_buffer(name) for name in circuit.inputs[node.variable].fixed}
    named = {**dict(group.named_parameters()), **fixed}
    found = {name: value.detach().double()[node.row] for name, value in named.items()}
    return found if group.support is None else {**found, "support": group.support[node.row]}  # type: ignore[index]


def _node_value(node: Node, weights: Tensor | None, children: list[Tensor]) -> Float[Tensor, "... O"]:
    if node.kind == "mixing":  # unit by unit: out[k] = sum_a w[k,a] child_a[k]
        assert weights is not None
        return (torch.stack(torch.broadcast_tensors(*children), -1) + weights).logsumexp(-1)
    if node.kind == "kronecker":
        left, right = torch.broadcast_tensors(children[0].unsqueeze(-1), children[1].unsqueeze(-2))
        product = (left + right).flatten(-2)
    else:
        product = children[0]
        for child in children[1:]:
            product = product + child
    return product if weights is None else (product.unsqueeze(-2) + weights).logsumexp(-1)


class _Draft(NamedTuple):
    kind: str
    children: tuple[int, ...]
    num_units: int
    width: int
    has_sum: bool
    tie: str | None
    family: InputFamily | None
    variables: tuple[int, ...]
    depth: int


class _Reader:
    """Names each node's parameters by the documented rule.

    Nodes that agree in depth, kind, arity, units, width, tie and family lie in one parameter group, in the order of
    the regions; groups that are not tied are called `input_n` or `sum_n`, with n the place of that set of nodes in the
    order of depth, then of first node.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit, self.drafts = circuit, list[_Draft]()
        self.sum_ties: Mapping[int, str] = circuit.ties["sum"]
        place: dict[int, int] = {}
        for index, region in enumerate(circuit.graph.regions):
            if region.is_input:
                place[index] = self._input(region.variables, circuit.ties["input"].get(index))
                continue
            units = 1 if index == circuit.graph.root and circuit.layer != "sparse" else circuit.num_units
            tie = self.sum_ties.get(index)
            parts = [
                self._partition([place[c] for c in partition.children], units, _named(tie, f"_{n}" if n else ""))
                for n, partition in enumerate(region.partitions)
            ]
            place[index] = (
                parts[0]
                if len(parts) == 1
                else self._add("mixing", tuple(parts), units, len(parts), True, _named(tie, "_mixing"))
            )
        if self.drafts[-1].num_units != 1:
            self._sum(len(self.drafts) - 1, 1, None)

    def nodes(self) -> list[Node]:
        folds: dict[tuple[Any, ...], list[int]] = {}
        for index, d in enumerate(self.drafts):
            folds.setdefault(
                (d.depth, d.kind, len(d.children), d.num_units, d.width, d.has_sum, d.tie or "", d.family), []
            ).append(index)
        found: dict[int, Node] = {}
        for level, members in enumerate(sorted(folds.values(), key=lambda m: (self.drafts[m[0]].depth, m[0]))):
            for row, index in enumerate(members):
                d = self.drafts[index]
                name = d.tie or (f"input_{level}" if d.kind == "input" else f"sum_{level}")
                found[index] = Node(
                    d.kind,
                    d.children,
                    d.num_units,
                    d.variables,
                    name if d.has_sum or d.kind == "input" else None,
                    0 if d.tie else row,
                )
        return [found[index] for index in range(len(self.drafts))]

    def _partition(self, children: list[int], units: int, tie: str | None) -> int:
        hidden = self.circuit.num_units
        if self.circuit.layer == "sparse":
            return children[0] if len(children) == 1 else self._add("hadamard", tuple(children), units, 0, False, None)
        if self.circuit.layer == "cp" and len(children) > 1:
            summed = tuple(self._sum(child, hidden, _named(tie, f"_child{a}")) for a, child in enumerate(children))
            product = self._add("hadamard", summed, hidden, 0, False, None)
            return product if units == hidden else self._sum(product, units, tie)
        if self.circuit.layer == "tucker" and len(children) == 2:
            width = self.drafts[children[0]].num_units * self.drafts[children[1]].num_units
            return self._add("kronecker", tuple(children), units, width, True, tie)
        return self._add("hadamard", tuple(children), units, self.drafts[children[0]].num_units, True, tie)

    def _sum(self, child: int, units: int, tie: str | None) -> int:
        return self._add("hadamard", (child,), units, self.drafts[child].num_units, True, tie)

    def _input(self, variables: tuple[int, ...], tie: str | None) -> int:
        self.drafts.append(
            _Draft("input", (), self.circuit.num_units, 0, False, tie, self.circuit.inputs[variables[0]], variables, 0)
        )
        return len(self.drafts) - 1

    def _add(self, kind: str, children: tuple[int, ...], units: int, width: int, has_sum: bool, tie: str | None) -> int:
        depth = 1 + max(self.drafts[c].depth for c in children)
        self.drafts.append(_Draft(kind, children, units, width, has_sum, tie, None, (), depth))
        return len(self.drafts) - 1


def _named(tie: str | None, suffix: str) -> str | None:
    return tie and tie + suffix
