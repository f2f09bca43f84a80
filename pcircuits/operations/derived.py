"""Circuits whose parameters are computed from those of other circuits, and stay shared with them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn

from pcircuits.blocks import Block
from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.evaluator import evaluate
from pcircuits.evidence import Evidence
from pcircuits.folding import fold
from pcircuits.operations.inputs import join_units, unit_rows
from pcircuits.state_tables import Prepared
from pcircuits.statistics import Statistics
from pcircuits.structures import Region, RegionGraph
from pcircuits.summary import summary
from pcircuits.types import Float, Tensor

NO_COUNTS = (
    "expected counts need weights that are probabilities of their own; a derived circuit's are computed from its "
    "sources': train it with Adam"
)


class Piece(NamedTuple):
    """A block of a derived circuit, and the recipe of its parameters (None: it has none)."""

    block: Block
    recipe: Any = None


class DerivedCircuit(Circuit):
    """A circuit computed from `sources`: trained by training them, conditioned, sampled and asked like any other.

    `log_prob` and all posteriors are of the normalised distribution `c(x) / Z`; `log_partition()` is `log Z`.
    Where Z is 0, as for supports that do not meet, all evidence is impossible. But in mixtures it has no parameters
    that EM could set. `save` writes its sources and how it comes of them.
    """

    _log_partition: tuple[tuple, Tensor] | None = None
    _is_normalised = False

    def __init__(self, sources: Sequence[Circuit], pieces: Sequence[Piece], families: Sequence[InputFamily]) -> None:
        nn.Module.__init__(self)
        self.sources = nn.ModuleList(sources)
        self.graph = _region_graph([piece.block for piece in pieces])
        self.inputs, self.ties, self.layer = tuple(families), {"sum": {}, "input": {}}, "derived"
        self.num_units = max(piece.block.num_units for piece in pieces)
        self.groups = nn.ModuleDict()
        self._plan = fold([piece.block for piece in pieces], self.inputs)
        self._recipes = _recipes_of_groups(pieces, self._plan.places)

    @property
    def is_complex(self) -> bool:
        return any(isinstance(source, Circuit) and source.is_complex for source in self.sources)

    @abstractmethod
    def _combine(self, recipes: Sequence[Any], prepared: Sequence[Mapping[str, Any]]) -> Any:
        """The parameters of one group, row by row as the recipes say, from those of the sources."""

    def log_partition(self) -> Float[Tensor, ""]:
        """`log Z`, the log of the sum (integral) over all x of what the units compute, c(x); differentiable."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return self._log_total()
        if self._log_partition is None or self._log_partition[0] != self.version:
            with torch.no_grad():
                self._log_partition = (self.version, self._log_total())
        return self._log_partition[1]

    def statistics(self, *args: Any, **kwargs: Any) -> Statistics:
        raise StructureError(NO_COUNTS)

    def maximise(self, *args: Any, **kwargs: Any) -> None:
        raise StructureError(NO_COUNTS)

    def _log_total(self) -> Float[Tensor, ""]:
        return evaluate(self.plan, self.prepared(), self._nothing(), self.dtype).log_evidence[0]

    def _prepare(self) -> Prepared:
        return Prepared(
            self.prepare_from([source.prepared() for source in self.sources if isinstance(source, Circuit)])
        )

    def prepare_from(self, prepared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """This circuit's parameters, were those of the sources `prepared`."""
        return {name: self._combine(recipes, prepared) for name, recipes in self._recipes.items()}

    def _validate_potentials(self, evidence: Evidence) -> None:
        if evidence.latent is not None or evidence.has_gates:
            raise StructureError(
                "`latent` and `gates` belong to the units of one circuit; a derived circuit has others"
            )

    def __str__(self) -> str:
        kinds = [type(source).__name__ for source in dict.fromkeys(self.sources)]
        return summary(self, derived=f"from {' and '.join(kinds)}, sharing all parameters")

    def extra_repr(self) -> str:
        return (
            f"{self.num_variables} variables, up to {self.num_units} units a region, {self.num_parameters:,} parameters"
        )


class CopiedCircuit(DerivedCircuit):
    """A circuit that has the blocks of its source, with parameters made of theirs. Inputs of the variable `untied`
    share their parameters with none.
    """

    def __init__(self, source: Circuit, families: Sequence[InputFamily], *, untied: int | None = None) -> None:
        pieces = []
        for block, place in zip(source.plan.blocks, source.plan.places, strict=True):
            apart = block.variables == (untied,)
            recipe = None if place is None else (*place, apart)
            pieces.append(Piece(replace(block, tie=None) if apart else block, recipe))
        super().__init__((source,), pieces, families)

    @abstractmethod
    def _changed(self, units: Any, apart: bool) -> Any:
        """Parameters from rows of the source's; `apart`: those of inputs of the variable that is tied to none."""

    def _combine(self, recipes: Sequence[tuple[str, int, bool]], prepared: Sequence[Mapping[str, Any]]) -> Any:
        parts = []
        for (group, apart), run in groupby(recipes, key=lambda recipe: (recipe[0], recipe[2])):
            rows = torch.tensor([row for _, row, _ in run])
            parts.append(self._changed(unit_rows(prepared[0][group], rows), apart))
        return parts[0] if len(parts) == 1 else join_units(parts)


class Pieces:
    """Grows the blocks of a derived circuit, children first."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def add_input(self, variables: Sequence[int], units: int, recipe: Any, *, tie: str | None = None) -> int:
        return self._add(Block("input", (), units, 0, 0, False, self._owner(), tie, tuple(variables)), recipe)

    def add(
        self,
        kind: str,
        children: Sequence[int],
        units: int,
        recipe: Any = None,
        *,
        width: int = 0,
        tie: str | None = None,
    ) -> int:
        """A product of blocks, with a recipe the sum over it too; `width` is the number of the sum's children."""
        depth = 1 + max(self.pieces[c].block.depth for c in children)
        has_sum = recipe is not None
        owner = self._owner() if has_sum else None
        block = Block(kind, tuple(children), units, width, depth, has_sum, owner, tie if has_sum else None)
        return self._add(block, recipe)

    def units(self, block: int) -> int:
        return self.pieces[block].block.num_units

    def _owner(self) -> tuple[int, str]:
        return len(self.pieces), ""

    def _add(self, block: Block, recipe: Any) -> int:
        self.pieces.append(Piece(block, recipe))
        return len(self.pieces) - 1


def _region_graph(blocks: Sequence[Block]) -> RegionGraph:
    return RegionGraph(tuple(_region(block) for block in blocks))


def _region(block: Block) -> Region:
    if block.kind == "input":
        return Region.input(*block.variables)
    partitions = [(c,) for c in block.children] if block.kind == "mixing" else [block.children]
    return Region.split(*partitions)


def _recipes_of_groups(pieces: Sequence[Piece], places: Sequence[tuple[str, int] | None]) -> dict[str, list[Any]]:
    recipes: dict[str, dict[int, Any]] = {}
    for piece, place in zip(pieces, places, strict=True):
        if place is not None:
            recipes.setdefault(place[0], {})[place[1]] = piece.recipe
    return {name: [rows[row] for row in sorted(rows)] for name, rows in recipes.items()}
