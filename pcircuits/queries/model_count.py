"""How many worlds are possible, or what their weights add up to, whatever their probabilities."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcircuits.blocks import Block
from pcircuits.distributions.discrete import Discrete
from pcircuits.distributions.tabulated import table_of
from pcircuits.errors import EvidenceError, StructureError
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.semirings import Log, SumWeights
from pcircuits.types import Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


def model_count(circuit: "Circuit", values: Mapping[int, int] | None = None) -> int:
    """How many worlds have positive probability, of those with the given `values` by variable: exact, however many.

    Of a circuit compiled from a formula these are its models, also after learning. `Posterior.log_model_count` weighs
    them.

    Raises:
        StructureError: the circuit is not proven deterministic, or a variable is not discrete.
        EvidenceError: a variable or value that is not there.
    """
    _require_countable(circuit)
    given = dict(values or {})
    for variable, value in given.items():
        if variable not in range(circuit.num_variables):
            raise EvidenceError(f"variables are 0..{circuit.num_variables - 1}, got {variable!r}")
        if value not in range(circuit.inputs[variable].num_categories or 0):
            raise EvidenceError(f"variable {variable} has no value {value!r}")
    plan = circuit.plan
    positive = {name: _positive(group).tolist() for name, group in circuit.prepared().items()}
    counts: list[list[int]] = []
    for block, place in zip(plan.blocks, plan.places, strict=True):
        support = None if place is None else positive[place[0]][place[1]]
        counts.append(_counts(block, [counts[c] for c in block.children], support, given))
    return counts[-1][0]


def log_model_count(circuit: "Circuit", evidence: Evidence) -> Float[Tensor, " B"]:
    """`log sum_x w(x)` over the worlds of positive probability that agree with the evidence, `w` being the product of
    its soft weights: weighted model counting (Chavira and Darwiche 2008), in float64.
    """
    _require_countable(circuit)
    if evidence.latent is not None or evidence.gates is not None:
        raise StructureError("`latent` and `gates` weigh units; a model count has weights of values alone")
    ones = {name: _ones(group) for name, group in circuit.prepared().items()}
    return upward(circuit.plan, ones, evidence, Log()).log_evidence


def _require_countable(circuit: "Circuit") -> None:
    if bad := [family for family in circuit.inputs if not isinstance(family, Discrete)]:
        raise StructureError(f"models are counted over inputs of one discrete variable; this circuit has {bad[0]!r}")
    if circuit.determinism() is not True:
        raise StructureError(
            "a model count needs a deterministic circuit, and this one is not proven to be (see pcircuits.check)"
        )


def _positive(group: Any) -> Tensor:
    """Which weights (G, O, J), or values of inputs (G, K, V), may be."""
    return group.log > -torch.inf


def _ones(group: Any) -> Any:
    log = torch.where(_positive(group), 0.0, -torch.inf).double()
    return SumWeights(log.exp(), log, as_given=True) if isinstance(group, SumWeights) else table_of(log)


def _counts(
    block: Block, children: Sequence[list[int]], support: list[list[bool]] | None, given: Mapping[int, int]
) -> list[int]:
    """Of a block's units."""
    if block.kind == "input":
        assert support is not None
        value = given.get(block.variables[0])
        return [sum(row) if value is None else int(row[value]) for row in support]
    if block.kind == "mixing":
        assert support is not None
        return [sum(c[k] for c, x in zip(children, row, strict=True) if x) for k, row in enumerate(support)]
    product = children[0]
    for child in children[1:]:
        pairs = (
            zip(product, child, strict=True) if block.kind == "hadamard" else ((x, y) for x in product for y in child)
        )
        product = [x * y for x, y in pairs]
    if support is None:
        return product
    return [sum(count for count, x in zip(product, row, strict=True) if x) for row in support]
