"""Branch and bound over partial assignments: maxima, and upper bounds that shrink with the work allowed."""

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.semirings import Bound
from pcircuits.types import Bool, Float, Shaped, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

_TOGETHER = 64  # partial assignments that are extended in one batch
_SLACK = 1e-12  # relative; a branch that is no better than this is closed


class Search(NamedTuple):
    """The best assignment found (D,), None where no better one was; its log value; an upper bound of the maximum; and
    whether nothing is left to search.
    """

    values: Shaped[Tensor, " D"] | None
    log_value: Float[Tensor, ""]
    upper: Float[Tensor, ""]
    exhausted: bool


def branch_and_bound(circuit: "Circuit", evidence: Evidence, query: Bool[Tensor, " D"], budget: int) -> Search:
    """Best first: extend the partial assignments of highest bound by all values of one more variable of `query`, until
    none may beat the best complete one, or `budget` partial assignments were bounded. `evidence` is a single row.

    Continuous variables are never assigned: with such in the query the search ends with an upper bound.
    """
    order = [int(v) for v in query.nonzero().flatten() if circuit.inputs[int(v)].is_discrete]
    order.sort(key=lambda v: circuit.inputs[v].num_categories or 0)
    discrete_only = len(order) == int(query.sum())
    frontier: list[tuple[float, tuple[int, ...]]] = [(-torch.inf, ())]
    best, best_values, closed, spent = -torch.inf, None, -torch.inf, 0
    while frontier and spent < budget:
        parents = _take(frontier, best)
        children = [(*p, value) for p in parents for value in range(_size(circuit, order, p))]
        if not children:
            break
        spent += len(children)
        for bound, child in zip(_bounds(circuit, evidence, order, children).tolist(), children, strict=True):
            if len(child) < len(order):
                heapq.heappush(frontier, (-bound, child))
            elif not discrete_only:
                closed = max(closed, bound)
            elif bound > best:
                best, best_values = bound, child
    remaining = max([-b for b, _ in frontier], default=-torch.inf)
    upper = max(best, closed, remaining)
    exhausted = discrete_only and remaining <= best + _slack(best)
    values = None if best_values is None else _assigned(evidence, order, [best_values]).values[0]
    as_tensor = evidence.values.new_tensor
    return Search(values, as_tensor(best, dtype=torch.float64), as_tensor(upper, dtype=torch.float64), exhausted)


def _take(frontier: list[tuple[float, tuple[int, ...]]], best: float) -> list[tuple[int, ...]]:
    """The most promising partial assignments; those that cannot beat the best are dropped."""
    taken: list[tuple[int, ...]] = []
    while frontier and len(taken) < _TOGETHER:
        bound, assignment = heapq.heappop(frontier)
        if -bound > best + _slack(best):
            taken.append(assignment)
    return taken


def _slack(best: float) -> float:
    return 0.0 if best == -torch.inf else _SLACK * max(1.0, abs(best))


def _size(circuit: "Circuit", order: Sequence[int], assignment: tuple[int, ...]) -> int:
    return circuit.inputs[order[len(assignment)]].num_categories or 0


def _bounds(
    circuit: "Circuit", evidence: Evidence, order: Sequence[int], assignments: list[tuple[int, ...]]
) -> Float[Tensor, " N"]:
    """Upper bounds of `log p(x_query, evidence)` for all x that extend the assignments."""
    refined = _assigned(evidence, order, assignments)
    bounds = upward(circuit.plan, circuit.prepared(), refined, Bound()).log_evidence - circuit.log_partition()
    if evidence.log_weights is None:
        return bounds
    soft = evidence.log_weights[0].double()
    weights = [sum(float(soft[order[n], value]) for n, value in enumerate(a)) for a in assignments]
    return bounds + bounds.new_tensor(weights)


def _assigned(evidence: Evidence, order: Sequence[int], assignments: list[tuple[int, ...]]) -> Evidence:
    rows = evidence.rows(torch.zeros(len(assignments), dtype=torch.long, device=evidence.device))
    values, observed = rows.values.clone(), rows.observed.clone()
    lengths = [len(a) for a in assignments]
    row = torch.tensor([n for n, size in enumerate(lengths) for _ in range(size)])
    variable = torch.tensor([order[k] for size in lengths for k in range(size)])
    values[row, variable] = torch.tensor([v for a in assignments for v in a]).to(values)
    observed[row, variable] = True
    return rows.replace(values=values, observed=observed)
