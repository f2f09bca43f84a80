"""The region graph of a `.jpc` file's nodes.

A product may take its children's units in any order, ours takes unit k of each. So a node becomes a region for each
order in which products take its units, and shares what is below.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from pcircuits.errors import FormatError
from pcircuits.interop.jpc_nodes import Budget, InputNode, Node, ProductNode, SumNode
from pcircuits.structures import Region, RegionGraph


class Selection(NamedTuple):
    """Units of a sum or input node: unit k of the region is unit `units[k]` of the node."""

    node: int
    units: tuple[int, ...]


class Layout:
    """Regions, children first and inputs by variable before all others, as in `structures.chain`.

    Those with fewer units than others are padded by copies of their first, to which weights of zero lead.
    """

    def __init__(self, nodes: Sequence[Node], selections: Sequence[Selection]) -> None:
        self.nodes = nodes
        self.width = max(len(units) for _, units in selections)
        self._number = {selection: region for region, selection in enumerate(selections)}
        root = len(selections) - 1
        self.regions = [
            Selection(node, units if region == root else units + units[:1] * (self.width - len(units)))
            for region, (node, units) in enumerate(selections)
        ]

    @cached_property
    def graph(self) -> RegionGraph:
        return RegionGraph(tuple(self._region(node) for node, _ in self.regions), default_layer="cp-t")

    def _region(self, node_id: int) -> Region:
        node = self.nodes[node_id]
        if isinstance(node, InputNode):
            return Region.input(node.variable)
        return Region.split(*(sorted(self._number[s] for s in _taken(self.product(p))) for p in node.children))

    def product(self, node_id: int) -> ProductNode:
        product = self.nodes[node_id]
        assert isinstance(product, ProductNode)
        return product

    @cached_property
    def shared(self) -> list[tuple]:
        """What the parameters of each region are made from; regions with equal entries share them."""
        return [self._origin(region) for region in range(len(self.regions))]

    def _origin(self, region: int) -> tuple:
        node_id, units = self.regions[region]
        node = self.nodes[node_id]
        assert not isinstance(node, ProductNode)
        origin = node_id if node.source is None else node.source
        widths = tuple(self.product(p).num_units for p in node.children)
        return origin, units, widths

    def ties(self, kind: type[Node]) -> dict[int, str]:
        """The name of what regions of this kind share, of those that share it."""
        count = Counter(self.shared)
        names = {origin: f"tied{n}" for n, origin in enumerate(count)}
        return {
            region: names[origin]
            for region, origin in enumerate(self.shared)
            if count[origin] > 1 and isinstance(self.nodes[self.regions[region].node], kind)
        }


def lay_out(nodes: Sequence[Node], budget: Budget) -> Layout:
    """The regions that the root, the last node, needs.

    Raises:
        FormatError: a root that is not a single sum unit.
    """
    root = nodes[-1]
    if not isinstance(root, SumNode) or root.num_units != 1:
        kind = type(root).__name__.removesuffix("Node").lower()
        raise FormatError(f"its root is a {kind} of {root.num_units} units, expected a sum of one")
    needed: dict[int, dict[Selection, None]] = {len(nodes) - 1: {Selection(len(nodes) - 1, (0,)): None}}
    for number in range(len(nodes) - 1, -1, -1):
        node = nodes[number]
        if number in needed and isinstance(node, SumNode):
            for child in node.children:
                product = nodes[child]
                assert isinstance(product, ProductNode)
                for selection in _taken(product):
                    needed.setdefault(selection.node, {})[selection] = None
    inputs = sorted((node.variable, n) for n in needed if isinstance(node := nodes[n], InputNode))
    sums = sorted(n for n in needed if isinstance(nodes[n], SumNode))
    order = [*(n for _, n in inputs), *sums]
    layout = Layout(nodes, [selection for n in order for selection in needed[n]])
    _spend(layout, budget)
    return layout


def _taken(product: ProductNode) -> list[Selection]:
    return [Selection(c, tuple(column)) for c, column in zip(product.children, product.units.T.tolist(), strict=True)]


def _spend(layout: Layout, budget: Budget) -> None:
    """The entries of all parameters, those that are shared once."""
    for origin, units, widths in set(layout.shared):
        node = layout.nodes[origin]
        if isinstance(node, SumNode):
            budget.spend(node.num_units * node.num_inputs + len(units) * (layout.width + 1) * len(widths))
        elif isinstance(node, InputNode):
            budget.spend(len(units) * node.distribution.num_parameters)
