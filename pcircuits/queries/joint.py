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
    repeated, flat = evidence.repeat(n), x.reshape(n * batch, dim)
    if variables is None:
        complete = repeated.replace(values=flat, observed=torch.ones_like(repeated.observed), log_weights=None)
    else:
        chosen = variables.expand(n, -1, -1).reshape(n * batch, dim)
        complete = repeated.replace(
            values=torch.where(chosen, flat, repeated.values), observed=chosen | repeated.observed
        )
    scores = circuit.condition(complete).log_evidence
    return scores.view(n, batch) + _log_weight_of(evidence, x, variables)


def _log_weight_of(
    evidence: Evidence, x: Shaped[Tensor, "N B D"], variables: Bool[Tensor, "B D"] | None
) -> Float[Tensor, "N B"]:
    """What the evidence multiplies `p(x)` with: the soft weights of x's values; `-inf` where x contradicts hard
    evidence.
    """
    counted = torch.ones_like(evidence.observed) if variables is None else variables
    contradicts = ((x != evidence.values) & evidence.observed & counted).any(-1)
    total = torch.zeros(contradicts.shape, dtype=torch.float64, device=x.device)
    if evidence.log_weights is not None:
        soft = counted & ~evidence.observed
        index = torch.where(soft, x, 0).clamp(0, evidence.log_weights.shape[-1] - 1).long().unsqueeze(-1)
        weights = evidence.log_weights.expand(len(x), -1, -1, -1).gather(-1, index).squeeze(-1)
        total = torch.where(soft, weights.double(), 0.0).sum(-1)
    return total.masked_fill(contradicts, -torch.inf)
