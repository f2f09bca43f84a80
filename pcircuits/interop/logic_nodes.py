"""Formulas in decomposable negation normal form (Darwiche and Marquis 2002), node by node."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pcircuits.errors import FormatError
from pcircuits.structures.region import variables_of

TRUE, FALSE = -1, -2
MOST_VARIABLES, MOST_EDGES = 1 << 14, 1 << 22


class Node(NamedTuple):
    """An "input" over `variable` with log probabilities of its values, a conjunction ("and"), or a disjunction ("or")
    with log weights of its children.
    """

    kind: str
    children: tuple[int, ...] = ()
    log: tuple[float, ...] = ()
    variable: int = -1


class Nodes:
    """The nodes of one formula over variables 0..D-1, children first, equal ones once; TRUE and FALSE are none.

    Disjunctions whose weights are not given weigh each child by its number of models, so that all models of a
    deterministic formula are equally likely.

    Args:
        sizes: how many values variables have, two where it does not say.

    Raises:
        FormatError: what is not decomposable or smooth, other variables, more than 16,384 variables or 4M edges (and
            probabilities beyond two an input).
    """

    def __init__(self, num_variables: int, sizes: Mapping[int, int] | None = None) -> None:
        if not 1 <= num_variables <= MOST_VARIABLES:
            raise FormatError(f"it has {num_variables} variables, expected 1 to {MOST_VARIABLES}")
        self.num_variables = num_variables
        self.sizes = [(sizes or {}).get(v, 2) for v in range(num_variables)]
        self.nodes: list[Node] = []
        self._scopes: list[int] = []
        self._log_counts: list[float] = []
        self._ids: dict[Node, int] = {}
        self._free: dict[int, int] = {}
        self._edges = 0

    def scope(self, node: int) -> int:
        """The variables of a node as a bit mask."""
        return 0 if node < 0 else self._scopes[node]

    def literal(self, number: int) -> int:
        """The variable v, counted from 1, as number v, and its negation as -v (DIMACS)."""
        return self.input(abs(number) - 1, (-math.inf, 0.0) if number > 0 else (0.0, -math.inf))

    def input(self, variable: int, log: tuple[float, ...]) -> int:
        if not 0 <= variable < self.num_variables:
            raise FormatError(f"variable {variable + 1} is not one of 1 to {self.num_variables}")
        return self._add(Node("input", (), log, variable), 1 << variable, math.log(sum(x > -math.inf for x in log)))

    def free(self, scope: int) -> int:
        """True, and over these variables."""
        if scope not in self._free:
            self._free[scope] = self.conjoin([self._any(v) for v in variables_of(scope)])
        return self._free[scope]

    def _any(self, variable: int) -> int:
        size = self.sizes[variable]
        return self.input(variable, (-math.log(size),) * size)

    def conjoin(self, children: Iterable[int]) -> int:
        parts = dict.fromkeys(child for child in children if child != TRUE)
        if not parts or FALSE in parts:
            return FALSE if parts else TRUE
        if len(parts) == 1:
            return next(iter(parts))
        scope = 0
        for child in parts:
            if shared := scope & self._scopes[child]:
                raise FormatError(
                    f"it is not decomposable: two children of a conjunction hold variable {variables_of(shared)[0] + 1}"
                )
            scope |= self._scopes[child]
        return self._add(Node("and", tuple(parts)), scope, sum(self._log_counts[child] for child in parts))

    def disjoin(self, children: Sequence[int], log_weights: Sequence[float] | None = None) -> int:
        """A disjunction of children with the same variables; those without weight are left out."""
        weights = [0.0] * len(children) if log_weights is None else log_weights
        parts = [(c, w) for c, w in zip(children, weights, strict=True) if c != FALSE and w > -math.inf]
        if len(parts) < 2 or parts[0][0] == TRUE:
            return parts[0][0] if parts else FALSE
        scopes = {self.scope(child) for child, _ in parts}
        if len(scopes) > 1:
            raise FormatError("it is not smooth: two children of a disjunction hold unlike variables")
        counts = [self._log_counts[child] for child, _ in parts]
        log = counts if log_weights is None else [weight for _, weight in parts]
        total = _log_sum(log)
        node = Node("or", tuple(child for child, _ in parts), tuple(x - total for x in log))
        return self._add(node, scopes.pop(), _log_sum(counts))

    def smooth_disjoin(self, children: Sequence[int]) -> int:
        """A disjunction of children that need not have the same variables: what one lacks is free there."""
        scope = 0
        for child in children:
            scope |= self.scope(child)
        return self.disjoin([self.conjoin((child, self.free(scope & ~self.scope(child)))) for child in children])

    def complete(self, node: int) -> int:
        """A node over all variables: what it lacks is free."""
        return self.conjoin((node, self.free((1 << self.num_variables) - 1 & ~self.scope(node))))

    def _add(self, node: Node, scope: int, log_count: float) -> int:
        if (known := self._ids.get(node)) is not None:
            return known
        self._edges += max(len(node.children), len(node.log) - 2)
        if self._edges > MOST_EDGES:
            raise FormatError(f"it has more than {MOST_EDGES} edges, once smooth")
        self.nodes.append(node)
        self._scopes.append(scope)
        self._log_counts.append(log_count)
        self._ids[node] = len(self.nodes) - 1
        return len(self.nodes) - 1


def _log_sum(log: Sequence[float]) -> float:
    peak = max(log)
    return peak + math.log(sum(math.exp(x - peak) for x in log))
