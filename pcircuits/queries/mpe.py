"""Most probable explanation: the likeliest completion of the evidence, or of some of its variables (marginal MAP)."""

from typing import TYPE_CHECKING, NamedTuple

import torch

from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.queries.branch_and_bound import Search, branch_and_bound
from pcircuits.queries.joint import joint_log_prob
from pcircuits.queries.sample import decode
from pcircuits.semirings import Bound, Max
from pcircuits.types import Bool, Float, Shaped, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

MOST_COMPLETIONS = 1 << 12  # up to so many completions of a row are simply all compared
_EQUAL = 1e-12  # bounds so close, relative, are one number


class MPE(NamedTuple):
    """Values (B, D), their log probability given the evidence (B,): a lower bound of the maximum; whether it is proven
    to be the maximum (B,); and an upper bound of the maximum (B,), certified to rounding (None: not worked out).
    """

    values: Shaped[Tensor, "*B D"]
    log_prob: Float[Tensor, " *B"]
    exact: Bool[Tensor, " *B"]
    upper: Float[Tensor, " *B"] | None = None


def mpe(
    circuit: "Circuit",
    evidence: Evidence,
    log_evidence: Float[Tensor, " B"],
    marginalize: Bool[Tensor, "B D"] | None = None,
    search: int = 0,
) -> MPE:
    """The best of the max-product assignment and, where they are few, all completions.

    Maximisation is NP-hard in general. The max-product assignment is the maximum of a deterministic circuit (Chan and
    Darwiche 2006), else a lower bound. Rows with at most 4,096 completions are enumerated. Elsewhere the inputs'
    maxima, summed, are an upper bound, and `search` partial assignments a row tighten both.
    """
    plan, prepared = circuit.plan, circuit.prepared()
    query = ~evidence.observed if marginalize is None else ~evidence.observed & ~marginalize
    given = evidence.summing(None if marginalize is None else marginalize)
    values = decode(upward(plan, prepared, given, Max()), 1, None, 0.0)[0]
    upper = upward(plan, prepared, given, Bound()).log_evidence - circuit.log_partition()
    joint = _score(circuit, evidence, values.unsqueeze(0), query)[0]
    certain = marginalize is None and circuit.determinism() is True
    exact = torch.full_like(joint, certain, dtype=torch.bool) | _closed(joint, upper)
    for row in (~exact).nonzero().flatten().tolist():
        found = _improve(circuit, given.rows(torch.tensor([row], device=evidence.device)), query[row], search)
        if found is None:
            continue
        upper[row] = torch.minimum(upper[row], found.upper)
        if found.values is not None and found.log_value > joint[row]:
            values[row] = found.values.to(values)
            joint[row] = _score(circuit, evidence, values.unsqueeze(0), query)[0, row]
        exact[row] = found.exhausted or bool(_closed(joint, upper)[row])
    upper = torch.where(exact, joint, torch.maximum(upper, joint))
    values = torch.where(query | evidence.observed, values, 0)
    return MPE(values, joint - log_evidence, exact, upper - log_evidence)


def _improve(circuit: "Circuit", evidence: Evidence, query: Bool[Tensor, " D"], search: int) -> Search | None:
    """All completions of one row where they are few, else as many partial assignments as `search` allows."""
    candidates = _completions(circuit, evidence, query)
    if candidates is None:
        return branch_and_bound(circuit, evidence, query, search) if search else None
    scores = _score(circuit, evidence, candidates.unsqueeze(1), query.unsqueeze(0)).squeeze(-1)
    best = int(scores.argmax())
    return Search(candidates[best], scores[best], scores[best], True)


def _score(
    circuit: "Circuit", evidence: Evidence, x: Shaped[Tensor, "N B D"], query: Bool[Tensor, "B D"]
) -> Float[Tensor, "N B"]:
    """`log p(x_query, evidence)`."""
    complete = bool((query | evidence.observed).all())
    return joint_log_prob(circuit, evidence, x, None if complete else query | evidence.observed)


def _closed(lower: Float[Tensor, " B"], upper: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
    return upper - lower <= _EQUAL * lower.abs().clamp_min(1.0)


def _completions(circuit: "Circuit", evidence: Evidence, query: Bool[Tensor, " D"]) -> Shaped[Tensor, "N D"] | None:
    """Every completion of one row's hard evidence, or None where they are too many or a free variable is continuous."""
    free = query.nonzero().flatten().tolist()
    sizes = [circuit.inputs[v].num_categories for v in free]
    if not all(sizes) or torch.tensor(sizes, dtype=torch.float64).prod() > MOST_COMPLETIONS:
        return None
    choices = (
        torch.cartesian_prod(*[torch.arange(s) for s in sizes if s]).view(-1, len(free)) if free else torch.zeros(1, 0)
    )
    candidates = evidence.values[0].repeat(len(choices), 1)
    candidates[:, free] = choices.to(candidates)
    return candidates
