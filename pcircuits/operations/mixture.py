"""Mixtures of circuits that need not have anything in common but their variables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.distributions import LEAST_PROBABILITY, Smoothing
from pcircuits.errors import ParameterError, ShapeError, StructureError
from pcircuits.evidence import Evidence, describe
from pcircuits.kernels import finite
from pcircuits.operations.component_counts import ComponentRecipe, counts_by_component, origin
from pcircuits.operations.derived import NO_COUNTS, DerivedCircuit, Piece, Pieces
from pcircuits.operations.inputs import join_units, unit_rows
from pcircuits.operations.multiply import is_signed
from pcircuits.operations.signed import SignedFunction
from pcircuits.operations.signed_posterior import SignedPosterior
from pcircuits.posterior import Posterior
from pcircuits.semirings import SumWeights
from pcircuits.statistics import Counts, Statistics, add_to
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Workspace


class MixtureCircuit(DerivedCircuit):
    """`sum_m shares_m p_m(x)`; made by `mixture`. Component m is `sources[m]`, whose parameters it shares.

    `log_shares` (M,) is a parameter of its own, normalised on use. EM learns it and the components together, if those
    are ordinary circuits or mixtures of such.
    """

    def __init__(self, sources: Sequence[Circuit], shares: Float[Tensor, " M"]) -> None:
        super().__init__(sources, _side_by_side(sources), sources[0].inputs)
        self.log_shares = nn.Parameter(shares.log().log_softmax(0).to(sources[0].dtype))

    @property
    def shares(self) -> Float[Tensor, " M"]:
        """They add up to one."""
        return self.log_shares.softmax(0)

    def statistics(self, *args: Any, **kwargs: Any) -> Statistics:
        """As of any circuit. The counts of component m are its own of every row, times `p(m | row)`; those of the
        shares are the sums of `p(m | row)`. What several components share is counted once, by all of them.

        Raises:
            StructureError: a component that is derived from other circuits, mixtures aside.
        """
        names, counts = self._learned(), dict[str, dict[str, Tensor]]()
        found = Circuit.statistics(self, *args, **kwargs)
        self._credit(found.counts, names, counts)
        return replace(found, counts=counts)

    def maximise(
        self, statistics: Statistics, *, pseudocount: float = 0.0, relative: bool = False, step: float = 1.0
    ) -> None:
        names, counts = self._learned(), statistics.counts
        wanted = {f"{name}{group}" for circuit, name in names.items() for group in circuit.groups}
        wanted |= {f"{name}log_shares" for circuit, name in names.items() if isinstance(circuit, MixtureCircuit)}
        if counts.keys() != wanted:
            raise ParameterError(
                "`statistics` has other parameter groups than this mixture; they come from mixture.statistics"
            )
        mixtures = [circuit for circuit in names if isinstance(circuit, MixtureCircuit)]
        for circuit in (circuit for circuit in names if circuit not in mixtures):
            mine = {group: counts[f"{names[circuit]}{group}"] for group in circuit.groups}
            given = replace(statistics, counts=mine)
            circuit.maximise(given, pseudocount=pseudocount, relative=relative, step=step)
        for mixed in mixtures:
            of_shares = counts[f"{names[mixed]}log_shares"]["counts"]
            mixed._maximise_shares(of_shares, Smoothing(float(pseudocount), relative, float(step)))

    @torch.no_grad()
    def _maximise_shares(self, counts: Float[Tensor, "1 1 M"], smooth: Smoothing) -> None:
        new = smooth.probabilities(counts.to(self.dtype), self.shares.view(1, 1, -1), None)
        self.log_shares.copy_(new.view(-1).clamp_min(LEAST_PROBABILITY).log())

    def _learned(self) -> dict[Circuit, str]:
        """The circuits here that have parameters for EM, each once, and what the names of its counts begin with."""
        self._require_counts()
        named = {module: f"{name}." if name else "" for name, module in self.named_modules()}
        return {module: name for module, name in named.items() if isinstance(module, Circuit)}

    def _require_counts(self) -> None:
        for n, source in enumerate(self.sources):
            if isinstance(source, MixtureCircuit):
                source._require_counts()
            elif isinstance(source, DerivedCircuit):
                raise StructureError(f"circuit {n} of the mixture is a {type(source).__name__}: {NO_COUNTS}")

    def _credit(self, counts: Counts, names: Mapping[Circuit, str], credited: Counts) -> None:
        """Adds counts by the groups of this plan to those of the parameters that they are of."""
        (own,) = (name for name, recipes in self._recipes.items() if recipes[0] is None)
        add_to(credited, f"{names[self]}log_shares", counts[own])
        recipes = {name: of_rows for name, of_rows in self._recipes.items() if name != own}
        sources = [source for source in self.sources if isinstance(source, Circuit)]
        each = counts_by_component(counts, recipes, [source.plan for source in sources])
        for source, found in zip(sources, each, strict=True):
            if isinstance(source, MixtureCircuit):
                source._credit(found, names, credited)
                continue
            for group, part in found.items():
                add_to(credited, f"{names[source]}{group}", part)

    def _combine(self, recipes: Sequence[ComponentRecipe | None], prepared: Sequence[Mapping[str, Any]]) -> Any:
        if recipes[0] is None:
            totals = torch.stack([source.log_partition() for source in self.sources if isinstance(source, Circuit)])
            log = (self.log_shares.log_softmax(0) - finite(totals).to(self.log_shares)).expand(1, 1, -1)
            return SumWeights(log.exp(), log, as_given=True)
        rows = [
            unit_rows(prepared[component][group], torch.tensor([r.row for r in run if r is not None]))
            for (component, group), run in groupby(recipes, key=origin)
        ]
        return rows[0] if len(rows) == 1 else join_units(rows)


class SquaredMixtureCircuit(MixtureCircuit):
    """A mixture with squares of signed circuits among its components: a sum of squares (Loconte et al. 2025). Its log
    evidence is that of the components, mixed, so that none of it cancels.
    """

    def condition(self, evidence: Evidence, *, workspace: Workspace | None = None) -> Posterior:
        evidence = self._checked(evidence)
        sources = [source for source in self.sources if isinstance(source, Circuit)]
        each = torch.stack([source.condition(evidence).log_evidence for source in sources])
        shares = self.log_shares.double().log_softmax(0)
        return SignedPosterior(self, evidence, (each + shares.unsqueeze(1)).logsumexp(0))

    def _log_total(self) -> Float[Tensor, ""]:
        return torch.zeros((), dtype=torch.float64, device=self.device)


def mixture(circuits: Sequence[Circuit], shares: Tensor | Sequence[float] | None = None) -> MixtureCircuit:
    """The mixture `sum_m shares_m p_m(x)` of circuits over the same variables, as one circuit: their structures, layers
    and numbers of units may differ. Its queries are exact, and cost what those of all components cost. Squares of
    signed circuits are components too: a sum of squares.

    Args:
        shares: of the components, (M,), not negative; they are divided by their sum. Equal if left out.

    Raises:
        StructureError: no circuit, circuits of other inputs, dtypes or devices, or one whose values may be negative.
        ShapeError, ParameterError: other than one share a circuit, or shares that are negative, not finite or all zero.
    """
    circuits = list(circuits)
    if not circuits or not all(isinstance(circuit, Circuit) for circuit in circuits):
        raise StructureError(f"`circuits` must be at least one circuit, and nothing else; got {circuits!r:.80}")
    first = circuits[0]
    for n, circuit in enumerate(circuits):
        if isinstance(circuit, SignedFunction):
            raise StructureError(
                f"circuit {n} may be negative or complex: a mixture needs distributions; its square is one"
            )
        if circuit.inputs != first.inputs:
            raise StructureError(f"circuit {n} has other variables or input families than circuit 0")
        if (circuit.dtype, circuit.device) != (first.dtype, first.device):
            raise StructureError(f"circuit {n} is of {circuit.dtype} on {circuit.device}, unlike circuit 0")
    equal = torch.ones(len(circuits), dtype=torch.float64, device=first.device)
    given = equal if shares is None else torch.as_tensor(shares, dtype=torch.float64, device=first.device)
    if given.shape != equal.shape:
        raise ShapeError(f"`shares` must have shape ({len(circuits)},), got {describe(given)}")
    if not (given >= 0).all() or given.isinf().any() or not given.any():
        raise ParameterError(f"`shares` must be finite, not negative and not all zero; got {given.tolist()}")
    kind = SquaredMixtureCircuit if any(map(is_signed, circuits)) else MixtureCircuit
    return kind(circuits, given)


def _side_by_side(circuits: Sequence[Circuit]) -> list[Piece]:
    """The blocks of every circuit, and a sum over their roots."""
    out, roots = Pieces(), []
    for component, circuit in enumerate(circuits):
        start = len(out.pieces)
        for n, (block, place) in enumerate(zip(circuit.plan.blocks, circuit.plan.places, strict=True)):
            owner = None if block.owner is None else (start + n, "")
            tie = None if block.tie is None else f"{block.tie}_of{component}"
            children = tuple(start + child for child in block.children)
            recipe = None if place is None else ComponentRecipe(component, *place)
            out.pieces.append(Piece(replace(block, children=children, owner=owner, tie=tie), recipe))
        roots.append(len(out.pieces) - 1)
    depth = 1 + max(out.pieces[root].block.depth for root in roots)
    top = replace(out.pieces[roots[0]].block, kind="mixing", children=tuple(roots), num_children=len(roots))
    owner = (len(out.pieces), "")
    out.pieces.append(Piece(replace(top, num_units=1, depth=depth, has_sum=True, owner=owner, tie=None, variables=())))
    return out.pieces
