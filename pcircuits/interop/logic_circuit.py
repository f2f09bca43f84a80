"""The circuit of a formula's models."""

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import LEAST_PROBABILITY, Categorical
from pcircuits.errors import FormatError, ParameterError, StructureError
from pcircuits.interop.logic_nodes import FALSE, Node, Nodes
from pcircuits.layers import ParameterGroup, SumGroup
from pcircuits.structures import Region, RegionGraph


def circuit_of(nodes: Nodes, root: int, dtype: torch.dtype) -> Circuit:
    """The circuit of layer "sparse" with one unit a region; variables without a node are free.

    Raises:
        FormatError: a formula without models.
        ParameterError: another dtype.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ParameterError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
    if root == FALSE:
        raise FormatError("the formula has no model, so there is no distribution over its models")
    root = nodes.complete(root)
    owners = _owners(nodes.nodes, root)
    region_of = {node: region for region, node in enumerate(owners)}
    regions = tuple(_region(nodes.nodes, node, region_of) for node in owners)
    graph = RegionGraph(regions, num_units=1, default_layer="sparse")
    circuit = Circuit(graph, [Categorical(size) for size in nodes.sizes], seed=0, dtype=dtype)
    rows: dict[str, dict[int, tuple[float, ...]]] = {}
    for region, number in enumerate(owners):
        node = nodes.nodes[number]
        if node.log:
            name, row = circuit.plan.rows[region, "" if node.kind == "input" else "_mixing"]
            rows.setdefault(name, {})[row] = node.log
    for name, group in circuit.named_groups():
        _set(group, torch.tensor([rows[name][row] for row in range(len(rows[name]))], dtype=dtype).unsqueeze(1))
    return circuit


def require_formula(circuit: Circuit) -> None:
    """What files of formulas can hold.

    Raises:
        StructureError: more than one unit a region, or variables of other than two values.
    """
    blocks = circuit.plan.blocks
    if any(block.num_units * max(1, block.num_children) > 1 and block.kind != "mixing" for block in blocks):
        raise StructureError("a formula has one node a region; this circuit has several units")
    if any(family.num_categories != 2 for family in circuit.inputs):
        raise StructureError(f"a formula has variables of two values; this circuit has {circuit.inputs}")


def _owners(nodes: list[Node], root: int) -> list[int]:
    """The nodes that become regions, inputs first by variable: all that the root needs, but conjunctions whose parents
    are all disjunctions, which are partitions.
    """
    owners, needed = {root}, {root}
    for number in range(root, -1, -1):
        if number in needed:
            node = nodes[number]
            needed.update(node.children)
            owners.update(c for c in node.children if node.kind == "and" or nodes[c].kind != "and")
    return sorted(owners, key=lambda n: (nodes[n].kind != "input", nodes[n].variable, n))


def _region(nodes: list[Node], number: int, region_of: dict[int, int]) -> Region:
    node = nodes[number]
    if node.kind == "input":
        return Region.input(node.variable)
    products = [number] if node.kind == "and" else node.children
    parts = [nodes[p].children if nodes[p].kind == "and" else (p,) for p in products]
    return Region.split(*([region_of[child] for child in part] for part in parts))


@torch.no_grad()
def _set(group: ParameterGroup, log: torch.Tensor) -> None:
    """Log weights (G, 1, J), whose `-inf` are kept as the group's support."""
    support = log > -torch.inf
    if not support.all():
        group.restrict(support)
    name = "log_weights" if isinstance(group, SumGroup) else "logits"
    group.get_parameter(name).copy_(torch.where(support, log, torch.tensor(LEAST_PROBABILITY).log()))
