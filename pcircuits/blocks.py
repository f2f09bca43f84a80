"""One block of units a region or partition: a circuit before folding."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.structures import RegionGraph

_TIE, _OWN_NAME = re.compile(r"[A-Za-z]\w*"), re.compile(r"(sum|input)_\d+")


@dataclass(frozen=True)
class Block:
    """One region's or partition's vector of units, before folding: an input over `variables`, a product of `children`
    ("hadamard", "kronecker") with or without the sum over it, or "mixing" of partitions. `num_children`: J of the sum.
    """

    kind: str
    children: tuple[int, ...]
    num_units: int
    num_children: int
    depth: int
    has_sum: bool
    owner: tuple[int, str] | None
    tie: str | None
    variables: tuple[int, ...] = ()

    def fold_key(self, family: InputFamily | None) -> tuple:
        return (
            self.depth,
            self.kind,
            len(self.children),
            self.num_units,
            self.num_children,
            self.has_sum,
            self.tie or "",
            family,
        )


def scopes(blocks: Sequence[Block]) -> list[int]:
    """The scope of each block as a bit mask of variables."""
    masks: list[int] = []
    for block in blocks:
        mask = sum(1 << variable for variable in block.variables)
        for child in block.children:
            mask |= masks[child]
        masks.append(mask)
    return masks


def build_blocks(
    graph: RegionGraph, num_units: int, layer: str, *, sum_ties: Mapping[int, str], input_ties: Mapping[int, str]
) -> list[Block]:
    """The blocks of a region graph, children first."""
    _check_ties(graph, sum_ties, is_input=False)
    _check_ties(graph, input_ties, is_input=True)
    return _Blocks(graph, num_units, layer, {**sum_ties, **input_ties}).blocks


class _Blocks:
    def __init__(self, graph: RegionGraph, num_units: int, layer: str, ties: Mapping[int, str]) -> None:
        self.blocks: list[Block] = []
        self.num_units, self.layer, self.ties = num_units, layer, ties
        of_region: dict[int, int] = {}
        for i, region in enumerate(graph.regions):
            if region.is_input:
                of_region[i] = self._add("input", (), num_units, owner=(i, ""), variables=region.variables)
                continue
            outputs = 1 if i == graph.root and layer != "sparse" else num_units
            parts = [
                self._partition(tuple(of_region[c] for c in p.children), outputs, (i, f"_{n}" if n else ""))
                for n, p in enumerate(region.partitions)
            ]
            of_region[i] = parts[0] if len(parts) == 1 else self._mix(tuple(parts), outputs, i)
        if self.blocks[of_region[graph.root]].num_units != 1:  # no sum of its own, as of a bare input region
            of_region[graph.root] = self._sum(of_region[graph.root], 1, None)

    def _partition(self, children: tuple[int, ...], outputs: int, owner: tuple[int, str]) -> int:
        region, part = owner
        if self.layer == "sparse":
            return children[0] if len(children) == 1 else self._add("hadamard", children, outputs)
        if self.layer == "cp" and len(children) > 1:
            owners = [(region, f"{part}_child{a}") for a in range(len(children))]
            summed = tuple(self._sum(c, self.num_units, o) for c, o in zip(children, owners, strict=True))
            product = self._add("hadamard", summed, self.num_units)
            return product if outputs == self.num_units else self._sum(product, outputs, owner)
        kronecker = self.layer == "tucker" and len(children) == 2
        return self._add("kronecker" if kronecker else "hadamard", children, outputs, has_sum=True, owner=owner)

    def _mix(self, parts: tuple[int, ...], outputs: int, region: int) -> int:
        return self._add("mixing", parts, outputs, owner=(region, "_mixing"), has_sum=True)

    def _sum(self, child: int, outputs: int, owner: tuple[int, str] | None) -> int:
        return self._add("hadamard", (child,), outputs, has_sum=True, owner=owner)

    def _add(
        self,
        kind: str,
        children: tuple[int, ...],
        units: int,
        has_sum: bool = False,
        owner: tuple[int, str] | None = None,
        variables: tuple[int, ...] = (),
    ) -> int:
        below = [self.blocks[c] for c in children]
        width = 0
        if kind == "mixing":
            width = len(children)
        elif has_sum:
            width = below[0].num_units * below[1].num_units if kind == "kronecker" else below[0].num_units
        depth = 1 + max((b.depth for b in below), default=-1)
        tie = self.ties[owner[0]] + owner[1] if owner is not None and owner[0] in self.ties else None
        self.blocks.append(Block(kind, children, units, width, depth, has_sum, owner, tie, variables))
        return len(self.blocks) - 1


def _check_ties(graph: RegionGraph, ties: Mapping[int, str], is_input: bool) -> None:
    taken = dir(torch.nn.ModuleDict())
    for name in set(ties.values()):
        if not _TIE.fullmatch(name) or name in taken or _OWN_NAME.fullmatch(name):
            raise StructureError(f"a tie's name must be an identifier unlike 'sum_0', 'input_0', 'keys'; got {name!r}")
    for region, name in ties.items():
        if not 0 <= region <= graph.root or graph.regions[region].is_input != is_input:
            raise StructureError(f"tie {name!r}: {region} is not {'an input' if is_input else 'a sum'} region")
