"""Most probable explanation: the likeliest completion of the evidence."""

from typing import TYPE_CHECKING, NamedTuple

import torch

from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.queries.determinism import is_deterministic
from pcircuits.queries.joint import joint_log_prob
from pcircuits.queries.sample import decode
from pcircuits.semiring import Max
from pcircuits.types import Bool, Float, Shaped, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

MOST_COMPLETIONS = 1 << 12  # up to so many completions of a row are simply all compared


class MPE(NamedTuple):
    """Values (B, D), their log probability given the evidence (B,), and whether they are proven to be the maximum
    (B,).
    """

    values: Shaped[Tensor, "*B D"]
    log_prob: Float[Tensor, " *B"]
    exact: Bool[Tensor, " *B"]


def mpe(circuit: "Circuit", evidence: Evidence, log_evidence: Float[Tensor, " B"]) -> MPE:
    """The best of the max-product assignment and, where they are few, all completions.

    Maximisation is NP-hard in general. The max-product assignment is the maximum of a deterministic circuit (Chan and
    Darwiche 2006), else a lower bound; rows with at most 4,096 completions are enumerated. `exact` is True in both
    cases.
    """
    plan, prepared = circuit.plan, circuit.prepared()
    values = decode(upward(plan, prepared, evidence, Max()), 1, None, 0.0)[0]
    joint = joint_log_prob(circuit, evidence, values.unsqueeze(0))[0]
    exact = torch.full_like(joint, is_deterministic(plan, prepared), dtype=torch.bool)
    for row in (~exact).nonzero().flatten().tolist():
        candidates = _completions(circuit, evidence, row)
        if candidates is None:
            continue
        single = evidence.rows(torch.tensor([row], device=evidence.device))
        scores = joint_log_prob(circuit, single, candidates.unsqueeze(1)).squeeze(-1)
        best = int(scores.argmax())
        values[row], joint[row], exact[row] = candidates[best], scores[best], True
    return MPE(values, joint - log_evidence, exact)


def _completions(circuit: "Circuit", evidence: Evidence, row: int) -> Shaped[Tensor, "N D"] | None:
    """Every completion of one row's hard evidence, or None where they are too many or a free variable is continuous."""
    free = (~evidence.observed[row]).nonzero().flatten().tolist()
    sizes = [circuit.inputs[v].num_categories for v in free]
    if not all(sizes) or torch.tensor(sizes, dtype=torch.float64).prod() > MOST_COMPLETIONS:
        return None
    choices = (
        torch.cartesian_prod(*[torch.arange(s) for s in sizes if s]).view(-1, len(free)) if free else torch.zeros(1, 0)
    )
    candidates = evidence.values[row].repeat(len(choices), 1)
    candidates[:, free] = choices.to(candidates)
    return candidates
