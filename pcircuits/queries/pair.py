"""Exact joint distributions of two variables given the evidence, of any circuit: condition on each value of one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pcircuits.errors import ShapeError, StructureError
from pcircuits.evidence import Evidence
from pcircuits.types import Bool, Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

_CHUNK_ELEMENTS = 1 << 22  # of the marginals of one batch of refined evidence


def pair_marginals(
    circuit: "Circuit", evidence: Evidence, log_evidence: Float[Tensor, " B"], first: int, second: int
) -> Float[Tensor, "B V W"]:
    """`p(X_first = v, X_second = w | e) = p(X_first = v | e) p(X_second = w | X_first = v, e)`."""
    size, other = (_categories(circuit, v) for v in (first, second))
    chosen = [value_log_prob(circuit, evidence, first, value) - log_evidence for value in range(size)]
    weights = torch.stack(chosen, 1).exp()
    if first == second:
        return torch.diag_embed(weights)
    rows = [_given(circuit, evidence, weights[:, v] > 0, first, v, second, other) for v in range(size)]
    return weights.unsqueeze(-1) * torch.stack(rows, 1).to(weights.dtype)


def value_log_prob(circuit: "Circuit", evidence: Evidence, variable: int, value: int) -> Float[Tensor, " B"]:
    """`log p(X_variable = value, evidence)`, the evidence's weight of that value included."""
    log_prob = circuit.condition(_with_value(evidence, variable, value)).log_evidence
    contradicts = evidence.observed[:, variable] & (evidence.values[:, variable] != value)
    if evidence.log_weights is not None:
        soft = evidence.log_weights[:, variable, value].double()
        log_prob = log_prob + torch.where(evidence.observed[:, variable], 0.0, soft)
    return log_prob.masked_fill(contradicts, -torch.inf)


def mutual_information(pair: Float[Tensor, "*B V W"]) -> Float[Tensor, "*B"]:
    """`sum p(v, w) log (p(v, w) / p(v) p(w))` of pair marginals, in nats; at least 0."""
    independent = pair.sum(-1, keepdim=True) * pair.sum(-2, keepdim=True)
    log_ratio = torch.where(pair > 0, pair, 1.0).log() - torch.where(pair > 0, independent, 1.0).log()
    return (pair * log_ratio).sum((-1, -2)).clamp_min(0.0)


def _given(
    circuit: "Circuit", evidence: Evidence, possible: Bool[Tensor, " B"], first: int, value: int, second: int, size: int
) -> Float[Tensor, "B W"]:
    """`p(X_second | X_first = value, e)`, zeros in rows where that is impossible."""
    found = torch.zeros(evidence.batch_size, size, dtype=circuit.dtype, device=evidence.device)
    refined = _with_value(evidence, first, value)
    for rows in _chunks(possible.nonzero().squeeze(-1), evidence.num_variables * size):
        marginals = circuit.condition(refined.rows(rows)).marginals()
        part = marginals[:, second] if isinstance(marginals, Tensor) else marginals[second]
        assert isinstance(part, Tensor)
        found = found.index_copy(0, rows, part)
    return found


def _with_value(evidence: Evidence, variable: int, value: int) -> Evidence:
    values, observed = evidence.values.clone(), evidence.observed.clone()
    values[:, variable], observed[:, variable] = value, True
    return evidence.replace(values=values, observed=observed)


def _categories(circuit: "Circuit", variable: int) -> int:
    if not isinstance(variable, int) or not 0 <= variable < circuit.num_variables:
        raise ShapeError(f"variables are 0..{circuit.num_variables - 1}, got {variable!r}")
    family = circuit.inputs[variable]
    if family.num_categories is None:
        raise StructureError(
            f"pair marginals need variables with finitely many values; variable {variable} is {family!r}"
        )
    return family.num_categories


def _chunks(rows: Tensor, width: int) -> Iterator[Tensor]:
    return (part for part in rows.split(max(1, _CHUNK_ELEMENTS // width)) if len(part))
