"""Soft evidence under which a circuit has given marginals: the information projection, by iterative proportional
fitting.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.errors import EvidenceError, ParameterError, ShapeError, StructureError
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.kernels import finite
from pcircuits.queries.matching_fits import AllValues, LikeliestValues
from pcircuits.queries.matching_walk import Walk, is_tree
from pcircuits.types import Bool, Float, Int, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


class Projection(NamedTuple):
    """Soft evidence, the largest total variation between a row's marginals and its targets (B,), the sweeps that were
    made, and the rows (B,) where that distance came down to the tolerance.
    """

    evidence: Evidence
    gap: Float[Tensor, " B"]
    sweeps: int
    converged: Bool[Tensor, " B"]


@torch.no_grad()
def project_marginals(
    circuit: "Circuit",
    evidence: Evidence,
    log_targets: Float[Tensor, "B D V"],
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 200,
) -> Projection:
    """`match_marginals` until every unobserved variable's marginal is within `tolerance` total variation of its target:
    the information projection of the targets on the circuit, with its certificate.

    Raises:
        EvidenceError: a target that is positive where the circuit's support makes every probability zero.
        StructureError, ShapeError: as `match_marginals`.
    """
    _validate(circuit, evidence, log_targets, max_sweeps)
    if not tolerance > 0:
        raise ShapeError(f"`tolerance` must be positive, got {tolerance!r}")
    _require_reachable(circuit, evidence, log_targets)
    current, free, sweeps = evidence, ~evidence.observed, 0
    gap = log_targets.new_full(free.shape[:1], torch.inf)
    while sweeps < max_sweeps and (gap > tolerance).any():
        current, sweeps = match_marginals(circuit, current, log_targets), sweeps + 1
        distance = (_marginals(circuit, current) - log_targets.exp()).abs().sum(-1) / 2
        gap = distance.masked_fill(~free, 0.0).amax(-1)
    return Projection(current, gap, sweeps, gap <= tolerance)


def match_marginals(
    circuit: "Circuit",
    evidence: Evidence,
    log_targets: Float[Tensor, "B D V"],
    *,
    sweeps: int = 1,
    weighted_values: Int[Tensor, "B D W"] | None = None,
    num_values: int | None = None,
) -> Evidence:
    """Soft evidence at the unobserved variables under which the posterior's marginals approach `exp(log_targets)`.

    Each step sets one variable's weights to `target / message`, with the message the circuit's distribution of that
    variable under all other evidence: its marginal then is exact, and steps over all variables in turn converge to the
    information projection of the targets on the circuit (iterative proportional fitting, Deming and Stephan 1940;
    Csiszar 1975). In a tree-shaped circuit a sweep over all variables costs one upward and one downward pass; other
    circuits are re-evaluated for each variable.

    With gradients enabled the weights are differentiable functions of the circuit's parameters, potentials and targets.

    Args:
        evidence: hard evidence where observed, latent potentials and gates; its weights elsewhere are where the
            iteration starts.
        log_targets: (B, D, V) log probabilities, read at unobserved variables. Values that the circuit excludes keep
            weight zero.
        sweeps: over all variables.
        weighted_values: (B, D, W) the values that `log_targets` (B, D, W) are of; the result excludes all others.
        num_values: fit the so many likeliest values of each variable one by one and the others together: among these
            the weights are `target / m`, with m the circuit's marginals given the evidence, times one factor a variable
            under which their total is the targets'. That is iterative proportional fitting of coarser marginals. It
            costs two products with the whole table of inputs however many sweeps there are; the plain fit costs two a
            variable and sweep. Needs a tree-shaped circuit, and evidence without weights.

    Raises:
        StructureError: a circuit with variables that are not discrete with equally many values, or not tree-shaped
            where it must be.
        ShapeError: targets of another shape, or `sweeps` below 1. ParameterError: a wrong `num_values`.
    """
    _validate(circuit, evidence, log_targets, sweeps, weighted_values)
    if num_values is not None:
        _require_likeliest(circuit, evidence, num_values, weighted_values)
        likeliest = LikeliestValues(circuit, evidence, log_targets, min(num_values, log_targets.shape[-1]))
        return Walk(circuit, evidence, likeliest).run(sweeps)
    if evidence.log_weights is None or weighted_values is not None:
        start = torch.zeros_like(log_targets)
        current = evidence.replace(log_weights=start, weighted_values=weighted_values)
    else:
        current = evidence.replace(log_weights=evidence.log_weights)
    if is_tree(circuit.plan):
        return Walk(circuit, current, AllValues(current, log_targets)).run(sweeps)
    if weighted_values is not None:
        raise StructureError("match_marginals with `weighted_values` needs a tree-shaped circuit")
    for _ in range(sweeps):
        for variable in range(circuit.num_variables):
            current = _refit(circuit, current, log_targets, variable)
    return current


def _validate(
    circuit: "Circuit", evidence: Evidence, log_targets: Tensor, sweeps: int, ids: Tensor | None = None
) -> None:
    if circuit.num_categories is None or not all(isinstance(family, Discrete) for family in circuit.inputs):
        raise StructureError("match_marginals needs inputs of one discrete variable each, with equally many values")
    shape = (*evidence.values.shape, circuit.num_categories) if ids is None else ids.shape
    if not isinstance(log_targets, Tensor) or log_targets.shape != shape:
        raise ShapeError(f"`log_targets` must have shape {tuple(shape)}, got {describe(log_targets)}")
    if not isinstance(sweeps, int) or sweeps < 1:
        raise ShapeError(f"the number of sweeps must be a positive integer, got {sweeps!r}")


def _require_reachable(circuit: "Circuit", evidence: Evidence, log_targets: Tensor) -> None:
    """Every value with a positive target must be possible together with other such values."""
    wanted = ~log_targets.isneginf() & ~evidence.observed.unsqueeze(-1)
    support = torch.zeros_like(log_targets).masked_fill(~wanted, -torch.inf)
    posterior = circuit.condition(evidence.replace(log_weights=support))
    possible = ~posterior.log_evidence.isneginf()
    lost = ~possible
    if possible.any():
        marginals = _marginals(circuit, posterior.evidence.rows(possible))
        lost[possible] = (wanted[possible] & marginals.eq(0)).flatten(1).any(1)
    if lost.any():
        raise EvidenceError(
            f"the targets give probability to values that the circuit excludes in batch rows {rows_of(lost)}; "
            "no weights reach these marginals"
        )


def _require_likeliest(circuit: "Circuit", evidence: Evidence, num_values: object, ids: Tensor | None) -> None:
    if not isinstance(num_values, int) or num_values < 1:
        raise ParameterError(f"`num_values` must be a positive integer, got {num_values!r}")
    if ids is not None or evidence.log_weights is not None:
        raise ParameterError("`num_values` needs evidence and targets without weights of only some values")
    if not is_tree(circuit.plan):
        raise StructureError("match_marginals with `num_values` needs a tree-shaped circuit")


def _marginals(circuit: "Circuit", evidence: Evidence) -> Float[Tensor, "B D V"]:
    marginals = circuit.condition(evidence).marginals()
    assert isinstance(marginals, Tensor)
    return marginals


def _refit(circuit: "Circuit", current: Evidence, log_targets: Tensor, variable: int) -> Evidence:
    assert current.log_weights is not None
    marginal, weights = _marginals(circuit, current)[:, variable], current.log_weights[:, variable]
    possible = ~weights.isneginf() & (marginal > 0)
    change = log_targets[:, variable] - torch.where(possible, marginal, 1.0).log().to(weights.dtype)
    new = torch.where(possible, finite(weights) + change, -torch.inf)
    return current.replace(log_weights=_with_column(current.log_weights, variable, new))


def _with_column(log_weights: Tensor, variable: int, column: Tensor) -> Tensor:
    index = torch.tensor([variable], device=column.device)
    return log_weights.index_copy(1, index, column.unsqueeze(1))
