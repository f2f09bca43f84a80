"""Expected counts: what the E step of EM collects. They add up over batches and devices."""

from collections.abc import Mapping
from dataclasses import dataclass

from pcircuits.evaluator import Evaluation, Pass, downward
from pcircuits.plan import InputLevel, Plan
from pcircuits.types import Float, Tensor

Counts = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Statistics:
    """Expected sufficient statistics of each parameter group, the summed log likelihood and the summed sample
    weight.
    """

    counts: Counts
    log_likelihood: Float[Tensor, ""]
    weight: float

    def __add__(self, other: "Statistics") -> "Statistics":
        counts = {g: {k: v + other.counts[g][k] for k, v in parts.items()} for g, parts in self.counts.items()}
        return Statistics(counts, self.log_likelihood + other.log_likelihood, self.weight + other.weight)

    def __mul__(self, factor: float) -> "Statistics":
        counts = {g: {k: v * factor for k, v in parts.items()} for g, parts in self.counts.items()}
        return Statistics(counts, self.log_likelihood * factor, self.weight * factor)

    __rmul__ = __mul__


def collect(
    plan: Plan,
    evaluation: Evaluation,
    weights: Float[Tensor, " B"],
    log_evidence: Float[Tensor, " B"],
    *,
    scores: bool = False,
) -> Statistics:
    """Counts of both passes of an evaluation, which uses them up; each batch row is counted in the pass that answers
    for it. With `scores` they are for gradients, and for nothing else.
    """
    rows = evaluation.rows
    fast_weights = weights if rows is None else weights.index_fill(0, rows, 0.0)
    counts = _counts(plan, evaluation.fast, fast_weights, scores)
    if evaluation.exact is not None and rows is not None:
        for group, exact in _counts(plan, evaluation.exact, weights[rows], scores).items():
            add_to(counts, group, exact)
    return Statistics(counts, (weights * log_evidence.double()).sum(), float(weights.sum()))


def _counts(plan: Plan, upward_pass: Pass, weights: Float[Tensor, " B"], scores: bool) -> Counts:
    flows, sums = downward(upward_pass, weights.to(upward_pass.records[-1].values.v.dtype), count=True, keep=False)
    counts: Counts = {group: {"counts": value} for group, value in sums.items()}
    if (lookup := upward_pass.lookup) is not None:
        for group, value in lookup.counts({n: flows.pop(n) for n in lookup.read}).items():
            add_to(counts, group, {"counts": value})
    for n, input_flows in flows.items():
        level = plan.levels[n]
        assert isinstance(level, InputLevel)
        given = upward_pass.evidence.of_variables(level.variables)
        semiring = upward_pass.semiring
        count = level.family.scores if scores else level.family.statistics
        found = count(
            upward_pass.prepared[level.group], level.rows, given, input_flows, semiring.exact, semiring.memory
        )
        add_to(counts, level.group, found)
    return counts


def add_to(counts: Counts, group: str, found: Mapping[str, Tensor]) -> None:
    """Adds those of a group."""
    old = counts.setdefault(group, {})
    old.update({key: old[key] + value.to(old[key].dtype) if key in old else value for key, value in found.items()})
