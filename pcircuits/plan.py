"""What is computed together, from what, with which parameters: folded levels. No parameter values here."""

import functools
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from pcircuits.blocks import Block
from pcircuits.chains import Chain
from pcircuits.distributions import InputFamily
from pcircuits.types import Int, Tensor

Index = None | slice | Tensor  # which rows of a level: all of them in order, a range, or any


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
class Table:
    """A product's children as rows of one table, rows `pieces` of levels side by side: those of row f are at
    `children[f]`.
    """

    pieces: tuple[tuple[int, Index], ...]
    children: Int[Tensor, "F A"]


@dataclass(frozen=True)
class Weights:
    """Where a level's weights lie: the rows of a parameter group (None: all, in order)."""

    group: str
    rows: Int[Tensor, " F"] | None


@dataclass(frozen=True)
class InputLevel:
    """Inputs of one family; `variables`: those of the first row, then of the next, as many a row as the family has."""

    family: InputFamily
    variables: tuple[int, ...]
    group: str
    rows: Int[Tensor, " F"]
    num_rows: int
    num_units: int


@dataclass(frozen=True)
class InnerLevel:
    """A product of child regions and, where it has weights, the dense sum over it.

    `variables`: per row, those whose inputs are among its children. `table`: its children once more, for Hadamard
    products that are one operation.
    """

    product: Literal["hadamard", "kronecker"]
    children: tuple[Gather, ...]
    table: Table | None
    weights: Weights | None
    num_rows: int
    num_units: int
    variables: tuple[tuple[int, ...], ...]

    @property
    def rows_of_one(self) -> tuple[int, Int[Tensor, " F"]] | None:
        """The level whose rows, and which, a single child is, where they are in an order of their own."""
        (first, *more), order = self.children[0].parts, self.children[0].order
        if len(self.children) > 1 or more or order is not None or not isinstance(first.index, Tensor):
            return None
        return first.level, first.index


@dataclass(frozen=True)
class MixingLevel:
    """`out[k] = sum_a w[k,a] child_a[k]`: one region's partitions, mixed unit by unit."""

    children: tuple[Gather, ...]
    weights: Weights
    num_rows: int
    num_units: int


Level = InputLevel | InnerLevel | MixingLevel


def gives_what_it_is_given(level: Level) -> bool:
    """Whether the flows of a level's children are its own: a product without a sum."""
    return isinstance(level, InnerLevel) and level.product == "hadamard" and level.weights is None


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
    are the level's rows, or add up at rows `target`. A product without a sum, which gives what it is given, is passed
    over where it is all that gives to the level.
    """

    sources: tuple[Source, ...]
    index: Int[Tensor, " R"] | None
    target: Int[Tensor, " R"] | None


@dataclass(frozen=True)
class JointStates:
    """The joint states of each row's variables, of `sizes` values each: the last one counts the fastest."""

    variables: Int[Tensor, "F M"]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Plan:
    """`rows` says in which group and row a region's parameters lie: by region id and part, which is "" for an input and
    the sum over the first partition, and otherwise as it is in the names of ties ("_1", "_child0", "_mixing").

    `readers` are the levels that read each level's values.

    `blocks` is the circuit before folding, children first, the root last; `at` says in which level and row each block
    is, `places` in which group and row its parameters lie, None where it has none. `chains` are segments that may be
    evaluated as one. `states` are those of each level's rows, None where they are many or not as many in each.
    """

    levels: tuple[Level, ...]
    groups: Mapping[str, GroupSpec]
    incoming: tuple[Incoming, ...]
    readers: tuple[frozenset[int], ...]
    rows: Mapping[tuple[int, str], tuple[str, int]]
    blocks: tuple[Block, ...]
    at: tuple[tuple[int, int], ...]
    places: tuple[tuple[str, int] | None, ...]
    chains: tuple[Chain, ...]
    states: tuple[JointStates | None, ...]

    @functools.cached_property
    def takers(self) -> "Takers":
        return find_takers(self)

    def added_up(self, n: int) -> Int[Tensor, " R"] | None:
        """Where the flows of what level n reads add up to those of the level that it reads, if that is one which takes
        flows from no other.
        """
        level = self.levels[n]
        read = level.rows_of_one if isinstance(level, InnerLevel) else None
        incoming = self.incoming[n if read is None else read[0]]
        alone = read is not None and incoming.sources == (Source(n, 0),) and incoming.index is None
        return incoming.target if alone else None

    def to(self, device: torch.device) -> "Plan":
        return _move(self, device)

    def __str__(self) -> str:
        return "\n".join(f"{i:4d}  {_describe(level)}" for i, level in enumerate(self.levels))


class Takers(NamedTuple):
    """How many levels take what each level gives its children, and the levels whose own flows nobody takes."""

    number: Mapping[int, int]
    passed_over: frozenset[int]


def find_takers(plan: Plan, tabled: Collection[int] = (), read: Collection[int] = ()) -> Takers:
    """Of `tabled` levels none takes flows but those that are `read`; of others a product that gives what it is given
    takes none if nobody takes from it.
    """
    number: Counter[int] = Counter()
    passed_over = set()
    for n, incoming in enumerate(plan.incoming):
        unread = n not in read if n in tabled else gives_what_it_is_given(plan.levels[n]) and not number[n]
        if unread:
            passed_over.add(n)
        else:
            number.update({source.level for source in incoming.sources})
    return Takers(number, frozenset(passed_over))


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
