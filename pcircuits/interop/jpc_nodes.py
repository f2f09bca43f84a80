"""The nodes of a `.jpc` file (PyJuice 2, `juice.save`): read as data, checked, never executed.

The file is a pickled list of dicts in topological order, the root last. A node is a vector of units, in
`num_node_blocks` blocks of `block_size`. Axes: N units of a node, C children, E edges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.errors import FormatError
from pcircuits.interop.inert_pickle import read_pickle
from pcircuits.interop.jpc_values import ARRAYS, Distribution, read_distribution, tensor_of
from pcircuits.types import Float, Int, Tensor

EDGES, REALS, FLAGS = (torch.int32, torch.int64), (torch.float16, torch.float32, torch.float64), (torch.bool,)
_BLOCKS = (("num_node_blocks", "block_size"), ("num_node_groups", "group_size"), ("num_nodes", None))  # newest first


@dataclass(frozen=True, eq=False)
class InputNode:
    """`params` (N, P) of the distribution over one variable."""

    variable: int
    distribution: Distribution
    num_units: int
    block_size: int
    params: Float[Tensor, "N P"] | None
    source: int | None
    children: tuple[int, ...] = ()

    def can_share(self, other: "Node") -> bool:
        """Whether the other's parameters fit this node."""
        sizes = (self.num_units, self.distribution)
        return isinstance(other, InputNode) and sizes == (other.num_units, other.distribution)


@dataclass(frozen=True, eq=False)
class ProductNode:
    """Unit n is the product of unit `units[n, c]` of each child c."""

    children: tuple[int, ...]
    num_units: int
    block_size: int
    units: Int[Tensor, "N C"]


@dataclass(frozen=True, eq=False)
class SumNode:
    """Edge e joins block `edges[0, e]` of units with block `edges[1, e]` of all children's units, by `params[e]`."""

    children: tuple[int, ...]
    num_units: int
    block_size: int
    num_inputs: int
    edges: Int[Tensor, "2 E"]
    params: Float[Tensor, "E block child_block"] | None
    source: int | None

    def can_share(self, other: "Node") -> bool:
        """Whether the other's parameters fit this node."""
        if not isinstance(other, SumNode) or self.num_inputs != other.num_inputs:
            return False
        return self.num_units == other.num_units and torch.equal(self.edges, other.edges)

    def weights(self, params: Float[Tensor, "E block child_block"]) -> Float[Tensor, "N inputs"]:
        """The dense matrix in which `params` are the blocks, rows normalised as PyJuice does when it loads them."""
        size, child_size = params.shape[1:]
        blocks = (self.num_units // size, self.num_inputs // child_size)
        dense = torch.zeros(*blocks, size, child_size, dtype=torch.float64)
        dense.index_put_((self.edges[0], self.edges[1]), params.double(), accumulate=True)
        dense = dense.transpose(1, 2).reshape(self.num_units, self.num_inputs)
        total = dense.sum(-1, keepdim=True)
        if not (total > 0).all():
            raise FormatError(f"unit {int((total <= 0).nonzero()[0, 0])} of a sum has no weight; train the circuit")
        return dense / total


Node = InputNode | ProductNode | SumNode


class Budget:
    """Entries that a file may expand to: blocks that are not stored are zeros of our dense weights."""

    def __init__(self, stored_bytes: int) -> None:
        self.left = 2**22 + 16 * stored_bytes

    def spend(self, entries: int) -> None:
        self.left -= entries
        if self.left < 0:
            raise FormatError("it is too sparse: its dense weights would take over 64 times the space of the file's")


def read_nodes(content: bytearray, budget: Budget) -> list[Node]:
    """The nodes in the file's order: every index in range, every shape as it must be, every source with parameters."""
    listed = read_pickle(content, ARRAYS)
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        raise FormatError("it does not hold a list of nodes; expected what juice.save writes")
    nodes: list[Node] = []
    for number, entry in enumerate(listed):
        try:
            nodes.append(_Entry(entry, nodes, budget).node())
        except FormatError as error:
            raise FormatError(f"node {number}: {error}") from error
    for number, node in enumerate(nodes):
        if not isinstance(node, ProductNode):
            _require_parameters(number, node, nodes)
    return nodes


class _Entry:
    """One dict of the file, and the nodes before it."""

    def __init__(self, entry: dict[str, Any], nodes: Sequence[Node], budget: Budget) -> None:
        self.entry, self.nodes, self.budget = entry, nodes, budget
        count, size = next((names for names in _BLOCKS if names[0] in entry), _BLOCKS[0])
        self.num_blocks, self.block_size = self.size(count), 1 if size is None else self.size(size)
        self.num_units = self.num_blocks * self.block_size

    def node(self) -> Node:
        if "external_params" in self.entry:
            raise FormatError("it has external_params; sums with parameters per sample are not supported")
        makers: dict[str, Callable[[], Node]] = {"Input": self.input, "Product": self.product, "Sum": self.sum}
        if (kind := self.value("type", str)) not in makers:
            raise FormatError(f"its type is {kind!r:.80}, expected Input, Product or Sum")
        return makers[kind]()

    def input(self) -> InputNode:
        scope = self.value("scope", list)
        if len(scope) != 1 or type(scope[0]) is not int:
            raise FormatError("its scope is not a single variable; inputs over several variables are not supported")
        distribution = read_distribution(self.value("dist", memoryview))
        params = self.tensor("params", REALS)
        if params is not None:
            if params.numel() != self.num_units * distribution.num_parameters:
                raise FormatError(f"{params.numel()} parameters do not fit {self.num_units} units of {distribution}")
            params = params.view(self.num_units, -1)
            distribution.require_valid(params)
        return InputNode(scope[0], distribution, self.num_units, self.block_size, params, self.source())

    def product(self) -> ProductNode:
        children = self.children(InputNode, SumNode)
        edges = self.tensor("edge_ids", EDGES)
        if any(child.block_size != self.block_size for child in children):
            raise FormatError("its children have another block_size")
        if edges is None or edges.ndim != 2 or edges.shape[1] != len(children):
            raise FormatError("its edge_ids do not have one column a child")
        self.budget.spend(self.num_units * len(children))
        units = edges.long()
        if len(edges) == self.num_blocks:
            offsets = torch.arange(self.block_size).view(1, -1, 1)
            self.require_below(units, [child.num_units // self.block_size for child in children])
            units = (units.unsqueeze(1) * self.block_size + offsets).flatten(0, 1)
        if len(units) != self.num_units:
            raise FormatError(f"its edge_ids have {len(units)} rows, expected {self.num_blocks} or {self.num_units}")
        self.require_below(units, [child.num_units for child in children])
        return ProductNode(self.value("chs", tuple), self.num_units, self.block_size, units)

    def sum(self) -> SumNode:
        children = self.children(ProductNode)
        edges, params = self.tensor("edge_ids", EDGES), self.tensor("params", REALS)
        num_inputs, child_size = sum(child.num_units for child in children), children[0].block_size
        if any(child.block_size != child_size for child in children):
            raise FormatError("its children have unequal block sizes")
        if edges is None or edges.ndim != 2 or len(edges) != 2:
            raise FormatError("its edge_ids do not have two rows")
        self.require_below(edges.T, [self.num_blocks, num_inputs // child_size])
        if len(edges[0].unique()) != self.num_blocks:
            raise FormatError("some of its blocks have no edge")
        if params is not None:
            self.require_weights(params, (edges.shape[1], self.block_size, child_size))
        children_ids = self.value("chs", tuple)
        return SumNode(children_ids, self.num_units, self.block_size, num_inputs, edges.long(), params, self.source())

    def require_weights(self, params: Tensor, shape: tuple[int, ...]) -> None:
        self.budget.spend(params.numel())
        if params.shape != shape:
            raise FormatError(f"its params have shape {tuple(params.shape)}, expected {shape}")
        if not (params.isfinite() & (params >= 0)).all():
            raise FormatError("its params are not finite and at least 0")
        zeros = self.tensor("zero_param_mask", FLAGS)
        if zeros is not None and (zeros.shape != shape or (params[zeros] != 0).any()):
            raise FormatError("its zero_param_mask does not fit its params: it marks entries that are not zero")

    def children(self, *kinds: type[Node]) -> list[Any]:
        ids = self.value("chs", tuple)
        if not ids or not all(type(child) is int and 0 <= child < len(self.nodes) for child in ids):
            raise FormatError("its chs are not ids of nodes before it")
        children = [self.nodes[child] for child in ids]
        if not all(isinstance(child, kinds) for child in children):
            raise FormatError("it has a child of the wrong kind: sums read products, products read sums and inputs")
        return children

    def source(self) -> int | None:
        return self.value("source_node", int) if "source_node" in self.entry else None

    def value(self, key: str, kind: type) -> Any:
        if type(value := self.entry.get(key)) is not kind:
            raise FormatError(f"{key!r} is a {type(value).__name__}, expected a {kind.__name__}")
        return value

    def size(self, key: str) -> int:
        if not 0 < (value := self.value(key, int)) < 2**31:
            raise FormatError(f"{key!r} must be a positive number below 2^31")
        return value

    def tensor(self, key: str, dtypes: Sequence[torch.dtype]) -> Tensor | None:
        if self.entry.get(key) is None:
            return None
        if (tensor := tensor_of(self.entry[key])).dtype not in dtypes:
            raise FormatError(f"{key!r} has {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
        return tensor

    @staticmethod
    def require_below(columns: Tensor, limits: Sequence[int]) -> None:
        if ((columns < 0) | (columns >= torch.tensor(limits))).any():
            raise FormatError("its edge_ids point beyond its children's units, or below 0")


def _require_parameters(number: int, node: InputNode | SumNode, nodes: Sequence[Node]) -> None:
    source = node if node.source is None else nodes[node.source] if 0 <= node.source < len(nodes) else None
    if source is None or isinstance(source, ProductNode) or source.params is None:
        raise FormatError(f"node {number} has no parameters, nor a source_node with some; train the circuit")
    if not node.can_share(source):
        raise FormatError(f"node {number} shares parameters with node {node.source}, which has other edges or inputs")
