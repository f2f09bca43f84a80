"""The probability of values together with the evidence."""

from typing import TYPE_CHECKING

import torch

from pcircuits.evidence import Evidence
from pcircuits.types import Bool, Float, Shaped, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


def joint_log_prob(
    circuit: "Circuit", evidence: Evidence, x: Shaped[Tensor, "N B D"], variables: Bool[Tensor, "B D"] | None = None
) -> Float[Tensor, "N B"]:
    """`log p(x, evidence)` of all variables or of some with the others summed out; soft weights, latent potentials and
    gates included.
    """
    n, batch, dim = x.shape
    repeated, flat = evidence if n == 1 else evidence.repeat(n), x.reshape(n * batch, dim)
    if variables is None:
        complete = repeated.replace(values=flat, observed=torch.ones_like(repeated.observed), log_weights=None)
    else:
        chosen = variables.expand(n, -1, -1).reshape(n * batch, dim)
        complete = repeated.observe(torch.where(chosen, flat, repeated.values), chosen | repeated.observed)
    scores = circuit.condition(complete).log_evidence
    return scores.view(n, batch) + _log_weight_of(evidence, x, variables)


def _log_weight_of(
    evidence: Evidence, x: Shaped[Tensor, "N B D"], variables: Bool[Tensor, "B D"] | None
) -> Float[Tensor, "N B"]:
    """What the evidence multiplies `p(x)` with: the soft weights of x's values; `-inf` where x contradicts hard
    evidence or an interval.
    """
    counted = torch.ones_like(evidence.observed) if variables is None else variables
    contradicts = ((x != evidence.values) & evidence.observed & counted).any(-1)
    total = torch.zeros(contradicts.shape, dtype=torch.float64, device=x.device)
    if evidence.log_weights is not None:
        soft = counted & ~evidence.observed
        total = torch.where(soft, _weights_of(evidence, torch.where(soft, x, 0)), 0.0).sum(-1)
    if evidence.interval is not None:
        low, high = evidence.interval.unbind(-1)
        contradicts |= (~((low <= x) & (x <= high)) & counted & ~evidence.observed).any(-1)
    return total.masked_fill(contradicts, -torch.inf)


def _weights_of(evidence: Evidence, x: Shaped[Tensor, "N B D"]) -> Float[Tensor, "N B D"]:
    """The soft weights of x's values."""
    assert evidence.log_weights is not None
    log_weights = evidence.log_weights.expand(len(x), -1, -1, -1)
    if (ids := evidence.weighted_values) is None:
        index = x.clamp(0, log_weights.shape[-1] - 1).long().unsqueeze(-1)
        return log_weights.gather(-1, index).squeeze(-1).double()
    named = ids == x.unsqueeze(-1)
    found = log_weights.gather(-1, named.long().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(named.any(-1), found, -torch.inf).double()
