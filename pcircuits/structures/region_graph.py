"""The region graph: which variables a circuit's units share, and how they split. No parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx

from pcircuits.errors import StructureError
from pcircuits.structures.region import Partition, Region, scope_masks, variables_of
from pcircuits.structures.validation import require_integer

__all__ = ["HINTS", "LAYERS", "Partition", "Region", "RegionGraph"]

LAYERS = ("cp", "cp-t", "tucker", "sparse")
HINTS = ("num_units", "default_layer", "observed_latents")
_FORMAT, _VERSION = "pcircuits.region_graph", 1


@dataclass(frozen=True, repr=False)
class RegionGraph:
    """Regions and the partitions that split them (Dang et al. 2020; Peharz et al. 2020, RAT-SPN): immutable and valid.

    The regions come children first, the last one is the root. Valid means: the root holds 0..D-1, the children of a
    partition are disjoint (decomposable), the partitions of a region cover its scope (smooth), and the root reaches
    every region. Otherwise StructureError. Several regions may share a scope.

    The hints are what a builder knows about the circuits it is meant for: `num_units` a region, the `default_layer`,
    and `observed_latents`: unit k of an input region is the indicator of category k, so that the circuit is
    deterministic.

    >>> RegionGraph((Region.input(0), Region.input(1), Region.split((0, 1))))
    RegionGraph(variables=2, regions=3, partitions=1, depth=1)
    """

    regions: tuple[Region, ...]
    num_units: int | None = field(default=None, kw_only=True)
    default_layer: str = field(default="cp", kw_only=True)
    observed_latents: bool = field(default=False, kw_only=True)
    scope_masks: tuple[int, ...] = field(init=False, compare=False)  # bit v of entry r: region r holds variable v

    def __post_init__(self) -> None:
        if self.num_units is not None:
            object.__setattr__(self, "num_units", require_integer("num_units", self.num_units, minimum=1))
        if self.default_layer not in LAYERS:
            raise StructureError(f"default_layer must be one of {', '.join(LAYERS)}, got {self.default_layer!r}")
        if not isinstance(self.observed_latents, bool):
            raise StructureError(f"observed_latents must be True or False, got {self.observed_latents!r}")
        object.__setattr__(self, "scope_masks", scope_masks(self.regions))

    @property
    def root(self) -> int:
        """Id of the root, the last region."""
        return len(self.regions) - 1

    @property
    def num_variables(self) -> int:
        """D."""
        return self.scope_masks[-1].bit_length()

    @property
    def num_partitions(self) -> int:
        return sum(len(region.partitions) for region in self.regions)

    def scope(self, region: int) -> tuple[int, ...]:
        """The variables of a region, ascending."""
        return variables_of(self.scope_masks[require_integer("region", region, minimum=0, maximum=self.root)])

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Height of each region: 0 for an input region, otherwise one more than its highest child."""
        heights: list[int] = []
        for region in self.regions:
            heights.append(1 + max((heights[c] for p in region.partitions for c in p.children), default=-1))
        return tuple(heights)

    @property
    def depth(self) -> int:
        """Height of the root: the sums on the longest way down."""
        return self.heights[-1]

    @cached_property
    def is_tree(self) -> bool:
        """Whether each region has at most one partition, and so, since children are disjoint, at most one parent."""
        return all(len(region.partitions) <= 1 for region in self.regions)

    @cached_property
    def is_structured_decomposable(self) -> bool:
        """Whether equal scopes always split into equal parts (Vergari et al. 2021); one child alone is no split."""
        splits: dict[int, frozenset[int]] = {}
        masks = self.scope_masks
        return all(
            splits.setdefault(scope, split) == split
            for scope, region in zip(masks, self.regions, strict=True)
            for split in (frozenset(masks[c] for c in p.children) for p in region.partitions if len(p.children) > 1)
        )

    def with_hints(self, **hints: Any) -> "RegionGraph":
        """A copy with other hints: any of `num_units`, `default_layer`, `observed_latents`."""
        unknown = sorted(set(hints) - set(HINTS))
        if unknown:
            raise StructureError(f"hints are {', '.join(HINTS)}, got {', '.join(unknown)}")
        return replace(self, **hints)

    def __repr__(self) -> str:
        counts = f"variables={self.num_variables}, regions={len(self.regions)}, partitions={self.num_partitions}"
        defaults = {"num_units": None, "default_layer": "cp", "observed_latents": False}
        hints = (f", {name}={getattr(self, name)!r}" for name in HINTS if getattr(self, name) != defaults[name])
        return f"RegionGraph({counts}, depth={self.depth}{''.join(hints)})"

    def to_json(self) -> dict[str, Any]:
        """A JSON object: an input region is its variable, or the list of several, any other region the list of its
        partitions' lists of children.
        """
        regions = [_region_to_json(region) for region in self.regions]
        return {"format": _FORMAT, "version": _VERSION, "regions": regions} | {h: getattr(self, h) for h in HINTS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RegionGraph":
        """The graph that `to_json` wrote, validated again; StructureError where `data` is not such an object."""
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise StructureError(f"from_json needs an object whose 'format' is {_FORMAT!r}, as to_json writes it")
        if data.get("version") != _VERSION:
            raise StructureError(f"from_json reads version {_VERSION} of {_FORMAT}, got {data.get('version')!r}")
        unknown = sorted(map(str, set(data) - {"format", "version", "regions", *HINTS}))
        if unknown:
            raise StructureError(f"from_json got unknown keys: {', '.join(unknown)}")
        if not isinstance(data.get("regions"), list):
            raise StructureError("from_json: 'regions' must be a list")
        regions = tuple(_region_from_json(index, entry) for index, entry in enumerate(data["regions"]))
        return cls(regions, **{hint: data[hint] for hint in HINTS if hint in data})

    def to_networkx(self) -> nx.DiGraph:
        """The graph in the convention of `from_networkx`, which inverts this.

        Region r is node r, its partition k is node (r, k); edges lead from a region to what it is made of.
        """
        digraph: nx.DiGraph = nx.DiGraph(**{hint: getattr(self, hint) for hint in HINTS})
        for index, region in enumerate(self.regions):
            digraph.add_node(index, **({"variable": _one_or_all(region.variables)} if region.is_input else {}))
            for number, partition in enumerate(region.partitions):
                digraph.add_node((index, number), partition=True)
                digraph.add_edge(index, (index, number))
                digraph.add_edges_from(((index, number), child) for child in partition.children)
        return digraph


def _one_or_all(variables: tuple[int, ...]) -> int | tuple[int, ...]:
    return variables[0] if len(variables) == 1 else variables


def _region_to_json(region: Region) -> int | list:
    if not region.is_input:
        return [list(p.children) for p in region.partitions]
    return region.variables[0] if len(region.variables) == 1 else list(region.variables)


def _region_from_json(index: int, entry: Any) -> Region:
    if type(entry) is int:
        return Region.input(entry)
    if isinstance(entry, list) and len(entry) > 1 and all(type(variable) is int for variable in entry):
        return Region.input(*entry)
    if isinstance(entry, list) and all(isinstance(children, list) for children in entry):
        return Region.split(*entry)
    raise StructureError(
        f"from_json: region {index} must be a variable (an integer), a list of variables, or a list of lists of "
        f"children, got {entry!r:.80}"
    )
