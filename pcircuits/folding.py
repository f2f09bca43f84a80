"""From a region graph to a plan: blocks of equal shape and depth become one level."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from pcircuits.blocks import Block, build_blocks
from pcircuits.chains import find_chains
from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.joint_states import joint_states
from pcircuits.plan import (
    Gather,
    GroupSpec,
    Incoming,
    Index,
    InnerLevel,
    InputLevel,
    Level,
    MixingLevel,
    Part,
    Plan,
    Source,
    Table,
    Weights,
    gives_what_it_is_given,
)
from pcircuits.structures import RegionGraph
from pcircuits.types import Tensor

LAYERS = ("cp", "cp-t", "tucker", "sparse")


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
            (product, then dense sum), "tucker" (Kronecker product of two children, then dense sum; partitions of
            another arity are Hadamard products),
            or "sparse" (products, and sums over a region's partitions unit by unit: with one unit a region each
            partition is a node and each of its parents an edge, as in circuits compiled from logic).
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
    blocks = build_blocks(graph, num_units, layer, sum_ties=sum_ties or {}, input_ties=input_ties or {})
    return fold(blocks, families)


def fold(blocks: Sequence[Block], families: Sequence[InputFamily]) -> Plan:
    """Blocks of equal shape and depth side by side, one level each."""
    folds: dict[tuple, list[int]] = {}
    for i, block in enumerate(blocks):
        folds.setdefault(block.fold_key(_family_of(block, families)), []).append(i)
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
    incoming = _incoming(levels)
    return Plan(
        levels,
        groups,
        _past_products(levels, incoming),
        tuple(frozenset(source.level for source in of_level.sources) for of_level in incoming),
        rows,
        tuple(blocks),
        tuple(place[i] for i in range(len(blocks))),
        places,
        find_chains(levels, incoming),
        joint_states(levels),
    )


def _family_of(block: Block, families: Sequence[InputFamily]) -> InputFamily | None:
    """Of an input, all of whose variables have it."""
    if block.kind != "input":
        return None
    found = [families[v] for v in block.variables]
    if len(set(found)) > 1 or found[0].num_variables != len(found):
        raise StructureError(
            f"an input region over the variables {list(block.variables)} needs one family of {len(found)} variables, "
            f"the same for each; got {', '.join(map(repr, dict.fromkeys(found)))}"
        )
    return found[0]


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
        family = families[first.variables[0]]
        group = first.tie or f"input_{n}"
        _add_group(groups, group, GroupSpec(1 if first.tie else count, first.num_units, family=family))
        rows = torch.zeros(count, dtype=torch.long) if first.tie else torch.arange(count)
        return InputLevel(family, tuple(v for b in blocks for v in b.variables), group, rows, count, first.num_units)
    places = [[place[b.children[a]] for b in blocks] for a in range(len(first.children))]
    children = tuple(_gather(of_argument) for of_argument in places)
    weights = None
    if first.has_sum:
        group = first.tie or f"sum_{n}"
        _add_group(groups, group, GroupSpec(1 if first.tie else count, first.num_units, first.num_children))
        weights = Weights(group, torch.zeros(count, dtype=torch.long) if first.tie and count > 1 else None)
    if first.kind == "mixing":
        assert weights is not None
        return MixingLevel(children, weights, count, first.num_units)
    variables = tuple(tuple(v for c in b.children for v in every[c].variables) for b in blocks)
    kind: Literal["hadamard", "kronecker"] = "kronecker" if first.kind == "kronecker" else "hadamard"
    table = _table(places) if kind == "hadamard" else None
    return InnerLevel(kind, children, table, weights, count, first.num_units, variables)


def _add_group(groups: dict[str, GroupSpec], name: str, spec: GroupSpec) -> None:
    if groups.setdefault(name, spec) != spec:
        raise StructureError(f"regions tied as {name!r} must have equal shapes and families: {groups[name]}, {spec}")


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


def _table(places: list[list[tuple[int, int]]]) -> Table:
    """One level as it is; of several those rows that are read."""
    read = sorted({place for of_argument in places for place in of_argument})
    levels = list(dict.fromkeys(level for level, _ in read))
    if len(levels) == 1:
        return Table(((levels[0], None),), torch.tensor([[row for _, row in rows] for rows in places]).T.contiguous())
    number = {place: i for i, place in enumerate(read)}
    pieces = tuple((level, _index([row for n, row in read if n == level])) for level in levels)
    return Table(pieces, torch.tensor([[number[place] for place in rows] for rows in places]).T.contiguous())


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


def _past_products(levels: Sequence[Level], incoming: Sequence[Incoming]) -> tuple[Incoming, ...]:
    """Flows of a level whose only source gives what it is given come from that one's sources."""
    found = list(incoming)
    for n, below in reversed(list(enumerate(incoming))):
        over = [source.level for source in below.sources if gives_what_it_is_given(levels[source.level])]
        if len(below.sources) == len(over) == 1 and (above := found[over[0]]).sources and above.target is None:
            found[n] = Incoming(above.sources, _composed(above.index, below.index), below.target)
    return tuple(found)


def _composed(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    if first is None or then is None:
        return then if first is None else first
    return first[then]


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
