"""Circuits over fewer variables: the others summed out, or observed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pcircuits.blocks import scopes
from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.errors import EvidenceError, ShapeError, StructureError
from pcircuits.evaluator import Pass, upward
from pcircuits.evidence import Evidence
from pcircuits.kernels import finite
from pcircuits.levels import product_of
from pcircuits.operations.derived import DerivedCircuit, Piece, Pieces
from pcircuits.operations.inputs import join_units, normalised, unit_rows
from pcircuits.operations.multiply import is_signed
from pcircuits.plan import InputLevel, Plan
from pcircuits.semirings import Log, SumWeights


class ProjectedRecipe(NamedTuple):
    """The block of the source that a block comes from; of a Kronecker sum with one child left, that child's place; of
    an input with some variables left, their places.
    """

    block: int
    keep: int | None = None
    left: tuple[int, ...] = ()


class ProjectedCircuit(DerivedCircuit):
    """`p(x_rest | evidence)` as a circuit over the rest alone; made by `marginalize` and `condition`.

    With e(u) the value of unit u under the evidence, a sum's weights become `w[o, j] e(j) / e(o)` (Darwiche 2009,
    Sec. 12.4), which are probabilities again. Without evidence they stay as they are, tied ones too.
    """

    def __init__(self, source: Circuit, kept: Sequence[int], evidence: Evidence | None) -> None:
        if is_signed(source):
            raise StructureError("structural marginals and conditionals need non-negative weights; use evidence")
        self._same = evidence is None and not isinstance(source, DerivedCircuit)
        self._given = evidence
        pieces = _project(source.plan, kept, keep_ties=self._same)
        super().__init__((source,), pieces, _families(source, kept))
        self.kept = tuple(kept)

    @property
    def values(self) -> dict[int, int | float] | None:
        """The observed variables' values, None of a marginal."""
        if self._given is None:
            return None
        seen = self._given.observed[0].nonzero().flatten().tolist()
        return {variable: self._given.values[0, variable].item() for variable in seen}

    def prepare_from(self, prepared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        (source,) = self.sources
        assert isinstance(source, Circuit)
        given = Evidence.nothing(1, source.num_variables, source.device) if self._given is None else self._given
        values = None if self._same else upward(source.plan, prepared[0], given, Log())
        self_values = [prepared[0], values]
        return {name: self._combine(recipes, self_values) for name, recipes in self._recipes.items()}

    def _combine(self, recipes: Sequence[ProjectedRecipe], prepared: Sequence[Any]) -> Any:
        (source,), (groups, values) = self.sources, prepared
        assert isinstance(source, Circuit)
        rows = [_parameters(source.plan, groups, values, recipe) for recipe in recipes]
        return join_units(rows)


def marginalize(circuit: Circuit, keep: Sequence[int]) -> ProjectedCircuit:
    """`p(x_keep)` as a smaller circuit over the variables `keep`, which become 0, 1, ... in the order given.

    Equal to missing values, with fewer blocks; parameters stay shared with `circuit`.

    Raises:
        ShapeError: `keep` is empty, repeats a variable or names one that is not there.
    """
    return ProjectedCircuit(circuit, _checked(circuit, keep), None)


def condition(circuit: Circuit, values: Mapping[int, int | float]) -> ProjectedCircuit:
    """`p(x_rest | values)` as a smaller circuit over the variables without a value, in ascending order.

    Equal to hard evidence; parameters stay shared with `circuit`, so that training it trains the conditional.

    Raises:
        ShapeError: no variable is left, or one is not there.
        EvidenceError: a value outside its variable's domain, or values that are impossible together.
    """
    rest = [v for v in range(circuit.num_variables) if v not in values]
    kept = _checked(circuit, rest + [v for v in values if v not in range(circuit.num_variables)])
    discrete = all(family.is_discrete for family in circuit.inputs)
    row = torch.zeros(
        1, circuit.num_variables, dtype=torch.long if discrete else circuit.dtype.to_real(), device=circuit.device
    )
    observed = torch.zeros(row.shape, dtype=torch.bool, device=circuit.device)
    for variable, value in values.items():
        row[0, variable], observed[0, variable] = value, True
    evidence = Evidence(row, observed=observed)
    with torch.no_grad():
        if circuit.condition(evidence).log_evidence.isneginf().any():
            raise EvidenceError(
                f"the values {dict(values)!r} are impossible together: nothing can be conditioned on them"
            )
    return ProjectedCircuit(circuit, kept, evidence)


def _checked(circuit: Circuit, variables: Sequence[int]) -> list[int]:
    known = list(variables)
    if not known or len(set(known)) < len(known):
        raise ShapeError(f"at least one variable, and none twice, must be kept; got {known}")
    if bad := [v for v in known if not isinstance(v, int) or not 0 <= v < circuit.num_variables]:
        raise ShapeError(f"variables are 0..{circuit.num_variables - 1}, got {bad[0]!r}")
    return known


def _families(source: Circuit, kept: Sequence[int]) -> list[InputFamily]:
    """Of every kept variable: that of its input, or of the part of a joint input that is left."""
    families = {variable: source.inputs[variable] for variable in kept}
    for block in source.plan.blocks:
        left = [k for k, variable in enumerate(block.variables) if variable in families]
        if 0 < len(left) < len(block.variables):
            part = source.inputs[block.variables[0]].without(left)
            families |= {block.variables[k]: part for k in left}
    return list(families.values())


def _project(plan: Plan, kept: Sequence[int], *, keep_ties: bool) -> list[Piece]:
    """Blocks whose scope holds a kept variable; products of a single block left are that block."""
    out, place, new = Pieces(), dict[int, int](), {variable: n for n, variable in enumerate(kept)}
    mask = sum(1 << variable for variable in kept)
    for n, (block, scope) in enumerate(zip(plan.blocks, scopes(plan.blocks), strict=True)):
        if not scope & mask:
            continue
        tie = block.tie if keep_ties else None
        if block.kind == "input":
            places = tuple(k for k, variable in enumerate(block.variables) if variable in new)
            partly = len(places) < len(block.variables)
            named = tie if tie is None or not partly else f"{tie}_keep{'_'.join(map(str, places))}"
            of_part = ProjectedRecipe(n, left=places if partly else ())
            variables = [new[block.variables[k]] for k in places]
            place[n] = out.add_input(variables, block.num_units, of_part, tie=named)
            continue
        left = [a for a, child in enumerate(block.children) if child in place]
        children, kind, keep = [place[block.children[a]] for a in left], block.kind, None
        if kind == "kronecker" and len(left) == 1:
            kind, keep = "hadamard", left[0]
        if len(children) == 1 and not block.has_sum:
            place[n] = children[0]
            continue
        width = block.num_children if keep is None else out.units(children[0])
        recipe = ProjectedRecipe(n, keep) if block.has_sum else None
        named = tie if tie is None or keep is None else f"{tie}_keep{keep}"
        place[n] = out.add(kind, children, block.num_units, recipe, width=width, tie=named)
    return out.pieces


def _parameters(plan: Plan, prepared: Mapping[str, Any], values: Pass | None, recipe: ProjectedRecipe) -> Any:
    """One row of parameters, (1, ...) each."""
    place, block = plan.places[recipe.block], plan.blocks[recipe.block]
    assert place is not None
    row = unit_rows(prepared[place[0]], torch.tensor([place[1]]))
    if recipe.left:
        return _reduced(plan, row, values, recipe)
    if not isinstance(row, SumWeights):
        return row if values is None else normalised(_input_level(plan, recipe.block).family, row)
    log = row.log.double()
    if values is not None:
        level, position = plan.at[recipe.block]
        record = values.records[level]
        folded, mixing = plan.levels[level], block.kind == "mixing"
        assert not isinstance(folded, InputLevel)
        children = product_of(folded, record, values.records, values.semiring).v
        terms = log + (children[:, position].permute(1, 2, 0) if mixing else children[position].unsqueeze(0))
        total = record.values.v[position].unsqueeze(-1)
        log = torch.where(total.isneginf(), log, terms - finite(total))
    if recipe.keep is not None:
        side = plan.blocks[block.children[0]].num_units
        log = log.unflatten(-1, (side, -1)).logsumexp(-1 if recipe.keep == 0 else -2)
    log = log.to(row.log.dtype)
    return SumWeights(log.exp(), log, as_given=True)


def _reduced(plan: Plan, units: Any, values: Pass | None, recipe: ProjectedRecipe) -> Any:
    """Joint inputs without the variables that are observed or summed out."""
    block, level = plan.blocks[recipe.block], _input_level(plan, recipe.block)
    if values is not None:
        return level.family.reduced(units, values.evidence.of_variables(block.variables), recipe.left)
    size = len(block.variables)
    nothing = Evidence.nothing(1, size, level.rows.device).of_variables(range(size))
    return level.family.reduced(units, nothing, recipe.left)


def _input_level(plan: Plan, block: int) -> InputLevel:
    level = plan.levels[plan.at[block][0]]
    assert isinstance(level, InputLevel)
    return level
