"""Sums and products as files have them: weights that need not add up to one, children that lack variables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pcircuits.errors import FormatError
from pcircuits.interop.logic_nodes import FALSE, Nodes
from pcircuits.structures.region import variables_of


class Weighted(NamedTuple):
    """What `exp(log)` times a node's distribution is; `log` is the total over the node's variables."""

    node: int
    log: float


NOTHING = Weighted(FALSE, -math.inf)


class WeightedNodes:
    """Makes normalised, smooth `nodes` of such sums and products, in proportion on all values of all variables.

    A variable that a sum's child lacks multiplies its value by one there, so it is uniform and the child's total grows
    by its number of values.

    Raises:
        FormatError: products that are not decomposable, totals that are not finite; as of `Nodes`.
    """

    def __init__(self, num_variables: int, sizes: Mapping[int, int]) -> None:
        self.nodes = Nodes(num_variables, sizes)

    def input(self, variable: int, log: Sequence[float]) -> Weighted:
        """Log values of the variable's first values, the others being impossible."""
        total = _log_sum(log)
        if total == -math.inf:
            return NOTHING
        size = self.nodes.sizes[variable] if 0 <= variable < self.nodes.num_variables else len(log)
        table = [x - total for x in log] + [-math.inf] * (size - len(log))
        return Weighted(self.nodes.input(variable, tuple(table)), total)

    def product(self, children: Sequence[Weighted]) -> Weighted:
        if NOTHING in children:
            return NOTHING
        scope = 0
        for child in children:
            if shared := scope & self.nodes.scope(child.node):
                raise FormatError(
                    f"it is not decomposable: two children of a product hold variable {variables_of(shared)[0] + 1}"
                )
            scope |= self.nodes.scope(child.node)
        return Weighted(self.nodes.conjoin(child.node for child in children), _finite(sum(x.log for x in children)))

    def sum(self, children: Sequence[Weighted], log_weights: Sequence[float]) -> Weighted:
        parts = [
            (child.node, _finite(weight + child.log))
            for child, weight in zip(children, log_weights, strict=True)
            if child != NOTHING and weight > -math.inf
        ]
        scope = 0
        for node, _ in parts:
            scope |= self.nodes.scope(node)
        terms: dict[int, list[float]] = {}
        for node, log in parts:
            missing = scope & ~self.nodes.scope(node)
            more = sum(math.log(self.nodes.sizes[v]) for v in variables_of(missing)) if missing else 0.0
            whole = self.nodes.conjoin((node, self.nodes.free(missing))) if missing else node
            terms.setdefault(whole, []).append(log + more)
        if not terms:
            return NOTHING
        logs = [_log_sum(log) for log in terms.values()]
        return Weighted(self.nodes.disjoin(list(terms), logs), _finite(_log_sum(logs)))


def _finite(log: float) -> float:
    if not math.isfinite(log):
        raise FormatError("its weights are beyond the range of numbers")
    return log


def _log_sum(logs: Iterable[float]) -> float:
    """The log of the sum of exponentials; -inf of none that counts."""
    terms = list(logs)
    peak = max(terms, default=-math.inf)
    return peak if peak == -math.inf else peak + math.log(sum(math.exp(x - peak) for x in terms))
