"""Regions and partitions, and the scopes that a list of them has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from pcircuits.errors import StructureError


@dataclass(frozen=True, slots=True)
class Partition:
    """One way to split a region: a product over disjoint regions, given by their ids.

    A partition of a single child multiplies nothing: the sum above it reads that child alone.
    """

    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of variables: an input region over its `variables`, or a sum over the partitions of its scope."""

    partitions: tuple[Partition, ...] = ()
    variables: tuple[int, ...] = ()

    @classmethod
    def input(cls, *variables: int) -> "Region":
        """The input region of a variable, or of several that one family models jointly."""
        return cls(variables=variables)

    @classmethod
    def split(cls, *partitions: Iterable[int]) -> "Region":
        """The region that each of `partitions`, an iterable of region ids, splits."""
        return cls(tuple(Partition(tuple(children)) for children in partitions))

    @property
    def is_input(self) -> bool:
        return not self.partitions


def variables_of(mask: int) -> tuple[int, ...]:
    """The variables of a scope mask, ascending."""
    return tuple(variable for variable, bit in enumerate(reversed(bin(mask)[2:])) if bit == "1")


def scope_masks(regions: tuple[Region, ...]) -> tuple[int, ...]:
    """The scope of each region as a bit mask: bit v says that the region holds variable v.

    Goes over the regions once, children first, with two bit operations a child, and raises StructureError at the first
    region that is malformed, out of order, not decomposable (children overlap) or not smooth (partitions of unequal
    scope).
    """
    if not isinstance(regions, tuple) or not regions:
        raise StructureError(f"regions must be a non-empty tuple of Region, got {_brief(regions)}")
    num_inputs = sum(_claimed_variables(region) for region in regions)
    masks: list[int] = []
    for index, region in enumerate(regions):
        _check_region(regions, index)
        masks.append(_sum_mask(index, region, masks) if region.partitions else _input_mask(index, region, num_inputs))
    _check_reachable(regions)
    _check_root(masks[-1], len(masks) - 1)
    return tuple(masks)


def _input_mask(index: int, region: Region, num_inputs: int) -> int:
    mask = 0
    for variable in region.variables:
        if type(variable) is not int or not 0 <= variable < num_inputs:
            raise StructureError(
                f"region {index}: variable {variable!r} must be an int below {num_inputs}, the number of variables of "
                "input regions, since each variable 0..D-1 has an input region"
            )
        if mask & 1 << variable:
            raise StructureError(f"region {index}: an input region holds a variable once, but {variable} is repeated")
        mask |= 1 << variable
    return mask


def _sum_mask(index: int, region: Region, masks: Sequence[int]) -> int:
    scope = _partition_mask(index, 0, region, masks)
    for number in range(1, len(region.partitions)):
        mask = _partition_mask(index, number, region, masks)
        if mask != scope:
            raise StructureError(
                f"region {index}: its partitions must cover the same variables, but partition 0 and partition {number} "
                f"differ in {_some_variables(mask ^ scope)}"
            )
    return scope


def _partition_mask(index: int, number: int, region: Region, masks: Sequence[int]) -> int:
    scope = 0
    for child in region.partitions[number].children:
        if scope & masks[child]:
            raise StructureError(
                f"region {index}, partition {number}: its children must be disjoint, "
                f"but child {child} repeats {_some_variables(scope & masks[child])}"
            )
        scope |= masks[child]
    return scope


def _check_region(regions: tuple[Region, ...], index: int) -> None:
    region = regions[index]
    if not isinstance(region, Region) or not isinstance(region.partitions, tuple):
        raise StructureError(f"region {index} must be a Region with a tuple of partitions, got {_brief(region)}")
    if not isinstance(region.variables, tuple) or bool(region.variables) == bool(region.partitions):
        raise StructureError(
            f"region {index} must have either variables (an input region) or partitions, "
            f"got variables={region.variables!r} and {len(region.partitions)} partitions"
        )
    for number, partition in enumerate(region.partitions):
        children = partition.children if isinstance(partition, Partition) else None
        if not isinstance(children, tuple) or not children:
            raise StructureError(
                f"region {index}, partition {number} must be a Partition of a non-empty tuple of region ids, "
                f"got {_brief(partition)}"
            )
        for child in children:
            if type(child) is not int or not 0 <= child < index:
                raise StructureError(f"region {index}, partition {number}: {_child_fault(regions, index, child)}")


def _child_fault(regions: tuple[Region, ...], index: int, child: object) -> str:
    if type(child) is not int or not 0 <= child < len(regions):
        return f"child {child!r} is not a region id, an int from 0 to {len(regions) - 1}"
    cycle = _cycle_through(regions, index)
    if cycle:
        return f"a region cannot hold itself, but it does along the cycle {' -> '.join(map(str, cycle))}"
    return f"child {child} must come before region {index}: list the regions children first"


def _cycle_through(regions: tuple[Region, ...], index: int) -> list[int]:
    """A cycle that `index` reaches, as region ids that end where they start; empty if there is none."""
    edges: nx.DiGraph = nx.DiGraph()
    for parent, region in enumerate(regions):
        edges.add_edges_from((parent, child) for child in _claimed_children(region))
    try:
        cycle = nx.find_cycle(edges, index)
    except nx.NetworkXNoCycle:
        return []
    return [cycle[0][0], *(edge[1] for edge in cycle)]


def _claimed_variables(region: object) -> int:
    """How many variables an input region has that may not have been checked yet."""
    known = isinstance(region, Region) and isinstance(region.variables, tuple)
    return len(region.variables) if known else 0  # type: ignore[attr-defined]


def _claimed_children(region: object) -> list[int]:
    """The children of a region that may not have been checked yet."""
    partitions = region.partitions if isinstance(region, Region) and isinstance(region.partitions, tuple) else ()
    claims = (p.children for p in partitions if isinstance(p, Partition) and isinstance(p.children, tuple))
    return [child for children in claims for child in children if type(child) is int]


def _check_reachable(regions: tuple[Region, ...]) -> None:
    has_parent = [False] * len(regions)
    has_parent[-1] = True  # the root needs none; with children first, a region without a parent is an unreachable one
    for region in regions:
        for partition in region.partitions:
            for child in partition.children:
                has_parent[child] = True
    if not all(has_parent):
        raise StructureError(
            f"region {has_parent.index(False)} cannot be reached from the root, region {len(regions) - 1} (the last): "
            "remove it, or make it a child"
        )


def _check_root(mask: int, root: int) -> None:
    missing = mask ^ ((1 << mask.bit_length()) - 1)
    if missing:
        raise StructureError(
            f"region {root}, the root, must hold all variables 0..{mask.bit_length() - 1}, "
            f"but {_some_variables(missing)} has no input region"
        )


def _some_variables(mask: int) -> str:
    variables = variables_of(mask)
    shown = ", ".join(map(str, variables[:5])) + (", ..." if len(variables) > 5 else "")
    return f"variable{'s' if len(variables) > 1 else ''} {shown}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
