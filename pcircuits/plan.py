"""From a region graph to folded levels: what is computed together, from what, with which parameters. No parameter
values here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch

from pcircuits.chains import Chain, find_chains
from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.structures import RegionGraph
from pcircuits.types import Int, Tensor

Index = None | slice | Tensor  # which rows of a level: all of them in order, a range, or any
LAYERS = ("cp", "cp-t", "tucker")
_TIE, _OWN_NAME = re.compile(r"[A-Za-z]\w*"), re.compile(r"(sum|input)_\d+")


@dataclass(frozen=True)
class Part:
    """Rows `index` of level `level`; they become rows `rows` of whoever gathers them."""

    level: int
    index: Index
    rows: Index


@dataclass(frozen=True)
class Gather:
    """Child values of one argument position: parts side by side, then put in `order`."""

    parts: tuple[Part, ...]
    order: Int[Tensor, " F"] | None


@dataclass(frozen=True)
class Weights:
    """Where a level's weights lie: the rows of a parameter group (None: all, in order)."""

    group: str
    rows: Int[Tensor, " F"] | None


@dataclass(frozen=True)
class InputLevel:
    family: InputFamily
    variables: tuple[int, ...]
    group: str
    rows: Int[Tensor, " F"]
    num_rows: int
    num_units: int


@dataclass(frozen=True)
class InnerLevel:
    """A product of child regions and, where it has weights, the dense sum over it.

    `variables`: per row, those whose inputs are among its children.
    """

    product: Literal["hadamard", "kronecker"]
    children: tuple[Gather, ...]
    weights: Weights | None
    num_rows: int
    num_units: int
    variables: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class MixingLevel:
    """`out[k] = sum_a w[k,a] child_a[k]`: one region's partitions, mixed unit by unit."""

    children: tuple[Gather, ...]
    weights: Weights
    num_rows: int
    num_units: int


Level = InputLevel | InnerLevel | MixingLevel


@dataclass(frozen=True)
class GroupSpec:
    """A parameter group: `rows` tied or folded copies of an input family's or a sum's parameters."""

    rows: int
    num_units: int
    num_children: int = 0
    family: InputFamily | None = None


@dataclass(frozen=True)
class Source:
    """What level `level` sends to the children at one argument position; hadamard products send all of them the
    same, at 0.
    """

    level: int
    argument: int


@dataclass(frozen=True)
class Incoming:
    """Where the flows of a level's rows come from: rows `index` of the sources side by side (None: all, in order). They
    are the level's rows, or add up at rows `target`.
    """

    sources: tuple[Source, ...]
    index: Int[Tensor, " R"] | None
    target: Int[Tensor, " R"] | None


@dataclass(frozen=True)
class Block:
    """One region's or partition's vector of units, before folding: an input over `variable`, a product of `children`
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
    variable: int = -1

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


@dataclass(frozen=True)
class Plan:
    """`rows` says in which group and row a region's parameters lie: by region id and part, which is "" for an input and
    the sum over the first partition, and otherwise as it is in the names of ties ("_1", "_child0", "_mixing").

    `blocks` is the circuit before folding, children first, the root last; `at` says in which level and row each block
    is, `places` in which group and row its parameters lie, None where it has none. `chains` are segments that may be
    evaluated as one.
    """

    levels: tuple[Level, ...]
    groups: Mapping[str, GroupSpec]
    incoming: tuple[Incoming, ...]
    rows: Mapping[tuple[int, str], tuple[str, int]]
    blocks: tuple[Block, ...]
    at: tuple[tuple[int, int], ...]
    places: tuple[tuple[str, int] | None, ...]
    chains: tuple[Chain, ...]

    def to(self, device: torch.device) -> "Plan":
        return _move(self, device)

    def __str__(self) -> str:
        return "\n".join(f"{i:4d}  {_describe(level)}" for i, level in enumerate(self.levels))


def compile_plan(
    graph: RegionGraph,
    families: Sequence[InputFamily],
    num_units: int,
    layer: str,
    *,
    sum_ties: Mapping[int, str] | None = None,
    input_ties: Mapping[int, str] | None = None,
) -> Plan:
    """Fold `graph` into levels of equal shape.

    Args:
        families: one input family a variable.
        num_units: K of every region but the root, which has one unit.
        layer: "cp" (a dense sum on each child, then the Hadamard product; Cichocki et al.'s CP decomposition), "cp-t"
            (product, then dense sum),
            or "tucker" (Kronecker product of two children, then dense sum; partitions of another arity are Hadamard
            products).
        sum_ties, input_ties: name of the parameter group that a region's sum or input shares with all others of that
        name.

    Raises:
        StructureError: an unknown layer, other than one family a variable, or ties that do not fit.
    """
    if layer not in LAYERS:
        raise StructureError(f"`layer` must be one of {', '.join(LAYERS)}; got {layer!r}")
    if len(families) != graph.num_variables:
        raise StructureError(
            f"`inputs` must give one family for each of {graph.num_variables} variables, got {len(families)}"
        )
    _check_ties(graph, sum_ties or {}, is_input=False)
    _check_ties(graph, input_ties or {}, is_input=True)
    blocks = _Blocks(graph, num_units, layer, sum_ties or {}, input_ties or {}).blocks
    return fold(blocks, families)


class _Blocks:
    """Builds the blocks of a region graph, children first."""

    def __init__(
        self, graph: RegionGraph, num_units: int, layer: str, sum_ties: Mapping[int, str], input_ties: Mapping[int, str]
    ) -> None:
        self.blocks: list[Block] = []
        self.num_units, self.layer, self.ties = num_units, layer, {**sum_ties, **input_ties}
        of_region: dict[int, int] = {}
        for i, region in enumerate(graph.regions):
            if region.variable is not None:
                of_region[i] = self._add("input", (), num_units, owner=(i, ""), variable=region.variable)
                continue
            outputs = 1 if i == graph.root else num_units
            parts = [
                self._partition(tuple(of_region[c] for c in p.children), outputs, (i, f"_{n}" if n else ""))
                for n, p in enumerate(region.partitions)
            ]
            of_region[i] = parts[0] if len(parts) == 1 else self._mix(tuple(parts), outputs, i)
        if self.blocks[of_region[graph.root]].num_units != 1:  # a bare input region as root
            of_region[graph.root] = self._sum(of_region[graph.root], 1, None)

    def _partition(self, children: tuple[int, ...], outputs: int, owner: tuple[int, str]) -> int:
        region, part = owner
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
        variable: int = -1,
    ) -> int:
        below = [self.blocks[c] for c in children]
        width = 0
        if kind == "mixing":
            width = len(children)
        elif has_sum:
            width = below[0].num_units * below[1].num_units if kind == "kronecker" else below[0].num_units
        depth = 1 + max((b.depth for b in below), default=-1)
        tie = self.ties[owner[0]] + owner[1] if owner is not None and owner[0] in self.ties else None
        self.blocks.append(Block(kind, children, units, width, depth, has_sum, owner, tie, variable))
        return len(self.blocks) - 1


def fold(blocks: Sequence[Block], families: Sequence[InputFamily]) -> Plan:
    """Blocks of equal shape and depth side by side, one level each."""
    folds: dict[tuple, list[int]] = {}
    for i, block in enumerate(blocks):
        folds.setdefault(block.fold_key(families[block.variable] if block.kind == "input" else None), []).append(i)
    ordered = sorted(folds.values(), key=lambda rows: (blocks[rows[0]].depth, rows[0]))
    place = {block: (level, row) for level, rows in enumerate(ordered) for row, block in enumerate(rows)}
    groups: dict[str, GroupSpec] = {}
    levels = tuple(
        _level(n, [blocks[i] for i in rows], blocks, place, families, groups) for n, rows in enumerate(ordered)
    )
    places = tuple(_place(block, levels[place[i][0]], place[i][1]) for i, block in enumerate(blocks))
    rows = {
        block.owner: where
        for block, where in zip(blocks, places, strict=True)
        if block.owner is not None and where is not None
    }
    incoming, at = _incoming(levels), tuple(place[i] for i in range(len(blocks)))
    return Plan(levels, groups, incoming, rows, tuple(blocks), at, places, find_chains(levels, incoming))


def _place(block: Block, level: Level, row: int) -> tuple[str, int] | None:
    if isinstance(level, InputLevel):
        return level.group, 0 if block.tie else row
    return None if level.weights is None else (level.weights.group, 0 if block.tie else row)


def _level(
    n: int,
    blocks: list[Block],
    every: Sequence[Block],
    place: Mapping[int, tuple[int, int]],
    families: Sequence[InputFamily],
    groups: dict,
) -> Level:
    first, count = blocks[0], len(blocks)
    if first.kind == "input":
        family = families[first.variable]
        group = first.tie or f"input_{n}"
        _add_group(groups, group, GroupSpec(1 if first.tie else count, first.num_units, family=family))
        rows = torch.zeros(count, dtype=torch.long) if first.tie else torch.arange(count)
        return InputLevel(family, tuple(b.variable for b in blocks), group, rows, count, first.num_units)
    children = tuple(_gather([place[b.children[a]] for b in blocks]) for a in range(len(first.children)))
    weights = None
    if first.has_sum:
        group = first.tie or f"sum_{n}"
        _add_group(groups, group, GroupSpec(1 if first.tie else count, first.num_units, first.num_children))
        weights = Weights(group, torch.zeros(count, dtype=torch.long) if first.tie and count > 1 else None)
    if first.kind == "mixing":
        assert weights is not None
        return MixingLevel(children, weights, count, first.num_units)
    variables = tuple(tuple(every[c].variable for c in b.children if every[c].kind == "input") for b in blocks)
    kind: Literal["hadamard", "kronecker"] = "kronecker" if first.kind == "kronecker" else "hadamard"
    return InnerLevel(kind, children, weights, count, first.num_units, variables)


def _add_group(groups: dict[str, GroupSpec], name: str, spec: GroupSpec) -> None:
    if groups.setdefault(name, spec) != spec:
        raise StructureError(f"regions tied as {name!r} must have equal shapes and families: {groups[name]}, {spec}")


def _check_ties(graph: RegionGraph, ties: Mapping[int, str], is_input: bool) -> None:
    taken = dir(torch.nn.ModuleDict())
    for name in set(ties.values()):
        if not _TIE.fullmatch(name) or name in taken or _OWN_NAME.fullmatch(name):
            raise StructureError(f"a tie's name must be an identifier unlike 'sum_0', 'input_0', 'keys'; got {name!r}")
    for region, name in ties.items():
        if not 0 <= region <= graph.root or graph.regions[region].is_input != is_input:
            raise StructureError(f"tie {name!r}: {region} is not {'an input' if is_input else 'a sum'} region")


def _gather(places: list[tuple[int, int]]) -> Gather:
    by_level: dict[int, list[int]] = {}
    for row, (level, _) in enumerate(places):
        by_level.setdefault(level, []).append(row)
    whole = len(by_level) == 1
    parts = tuple(
        Part(level, _index([places[r][1] for r in rows]), None if whole else torch.tensor(rows))
        for level, rows in by_level.items()
    )
    positions = torch.tensor([row for rows in by_level.values() for row in rows])
    return Gather(parts, None if whole or _is_range(positions.tolist()) else positions.argsort())


def _index(rows: list[int]) -> Index:
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step > 0 and rows == list(range(rows[0], rows[0] + step * len(rows), step)):
        return slice(rows[0], rows[-1] + 1, step)
    return torch.tensor(rows)


def _is_range(rows: list[int]) -> bool:
    return rows == list(range(rows[0], rows[0] + len(rows)))


def _incoming(levels: Sequence[Level]) -> tuple[Incoming, ...]:
    routes: list[dict[Source, list[tuple[Tensor, Tensor]]]] = [{} for _ in levels]
    for n, level in reversed(list(enumerate(levels))):
        if isinstance(level, InputLevel):
            continue
        same = isinstance(level, InnerLevel) and level.product == "hadamard"
        for argument, gather in enumerate(level.children):
            source = Source(n, 0 if same else argument)
            for part in gather.parts:
                rows = torch.arange(levels[part.level].num_rows)
                child = rows if part.index is None else rows[part.index]
                parent = torch.arange(level.num_rows) if part.rows is None else torch.arange(level.num_rows)[part.rows]
                routes[part.level].setdefault(source, []).append((parent, child))
    return tuple(
        _assembly(r, [levels[source.level].num_rows for source in r], level.num_rows)
        for r, level in zip(routes, levels, strict=True)
    )


def _assembly(routes: Mapping[Source, list[tuple[Tensor, Tensor]]], sizes: list[int], num_rows: int) -> Incoming:
    if not routes:
        return Incoming((), None, None)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    index = torch.cat(
        [parent + start for start, pairs in zip(starts, routes.values(), strict=True) for parent, _ in pairs]
    )
    target = torch.cat([child for pairs in routes.values() for _, child in pairs])
    everything = torch.arange(num_rows)
    once = len(target) == num_rows and torch.equal(target.sort().values, everything)
    if once:
        index = index[target.argsort()]
    as_it_comes = torch.equal(index, torch.arange(sum(sizes)))
    return Incoming(tuple(routes), None if as_it_comes else index, None if once else target)


def _move(item: Any, device: torch.device) -> Any:
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, tuple):
        return tuple(_move(x, device) for x in item)
    if is_dataclass(item) and not isinstance(item, InputFamily | type):
        return replace(item, **{f.name: _move(getattr(item, f.name), device) for f in fields(item)})
    return item


def _describe(level: Level) -> str:
    if isinstance(level, InputLevel):
        return f"input   {level.family!r} x {level.num_rows}, {level.num_units} units, parameters {level.group}"
    kind = "mixing" if isinstance(level, MixingLevel) else level.product
    weights = f", sum {level.weights.group}" if level.weights else ""
    return f"{kind:9s} of {len(level.children)} x {level.num_rows}, {level.num_units} units{weights}"
