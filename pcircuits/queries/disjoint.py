"""Which sums have children that exclude each other: proofs over all units of a circuit, children first."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pcircuits.blocks import Block, scopes
from pcircuits.distributions.discrete import Discrete
from pcircuits.plan import InputLevel, Plan
from pcircuits.semirings import SumWeights

_MOST_PAIRS, _MOST_WEIGHTS = 1 << 28, 1 << 20  # of terms over the same variables; of the circuit

Unit = tuple[int, int]  # a block, and which of its units
Term = tuple[Unit, ...]  # the units that a product multiplies, by scope; an input alone


class Disjointness:
    """For every sum whether a proof was found that no input makes two of its children positive at once.

    Two children exclude each other where a variable has no value that both allow, which is all that circuits of
    decisions need; or where each pair of their terms does: products that split their variables alike exclude each other
    if two of their factors do, inputs if they have no possible value in common. Where equal sets of variables always
    split alike, as along a vtree, the second finds whatever there is to find.
    """

    def __init__(self, plan: Plan, prepared: Mapping[str, Any]) -> None:
        self._plan, self._refuted = plan, set[Unit]()
        self._small = sum(block.num_units * max(1, block.num_children) for block in plan.blocks) <= _MOST_WEIGHTS
        if not self._small:
            return
        self._scopes = scopes(plan.blocks)
        self._possible = {
            b: _possible(plan, prepared, b) for b, block in enumerate(plan.blocks) if block.kind == "input"
        }
        self._positive = {
            name: (group.linear != 0).tolist() for name, group in prepared.items() if isinstance(group, SumWeights)
        }
        self._allowed: dict[Unit, list[int]] = {}
        self._terms: dict[Unit, list[Term]] = {}
        self._children: dict[Unit, list[list[Term]]] = {}
        self._open: dict[int, list[Unit]] = {}
        for b, block in enumerate(plan.blocks):
            for unit in range(block.num_units):
                self._add(block, (b, unit))
        self._refuted = self._undecided()

    def separates(self, block: int, unit: int) -> bool:
        """Whether the children of this unit, of a block with a sum, are proven to exclude each other."""
        return self._small and (block, unit) not in self._refuted

    def _add(self, block: Block, unit: Unit) -> None:
        b, k = unit
        if block.kind == "input":
            self._terms[unit] = [(unit,)]
            self._allowed[unit] = self._values(unit)
            return
        if not block.has_sum:
            self._terms[unit], self._allowed[unit] = self._product(block, k)
            return
        place = self._plan.places[b]
        assert place is not None
        positive = [j for j, x in enumerate(self._positive[place[0]][place[1]][k]) if x]
        if block.kind == "mixing":
            children = [(self._terms[block.children[a], k], self._allowed[block.children[a], k]) for a in positive]
        else:
            children = [self._product(block, j) for j in positive]
        self._terms[unit] = list(dict.fromkeys(term for terms, _ in children for term in terms))
        self._allowed[unit] = _union([allowed for _, allowed in children])
        if any(_may_meet(a, c, self._scopes[b]) for (_, a), (_, c) in combinations(children, 2)):
            self._children[unit] = [terms for terms, _ in children]
            self._open.setdefault(self._scopes[b], []).append(unit)

    def _product(self, block: Block, j: int) -> tuple[list[Term], list[int]]:
        """The terms of product j, and which variables it allows each value."""
        if block.kind == "kronecker":
            factors = list(zip(block.children, divmod(j, self._plan.blocks[block.children[1]].num_units), strict=True))
        else:
            factors = [(child, j) for child in block.children]
        if len(factors) == 1:
            return self._terms[factors[0]], self._allowed[factors[0]]
        term = tuple(sorted(factors, key=lambda unit: self._scopes[unit[0]]))
        return [term], _union([self._allowed[factor] for factor in factors])

    def _values(self, unit: Unit) -> list[int]:
        """By value: the variable's bit if the input allows it."""
        possible, bit = self._possible[unit[0]], self._scopes[unit[0]]
        return [bit] if possible is None else [bit if x else 0 for x in possible[unit[1]]]

    def _undecided(self) -> set[Unit]:
        """The units that remain open once the terms over equal variables are compared."""
        if not self._open:
            return set()
        factors = {factor for terms in self._terms.values() for term in terms if len(term) > 1 for factor in term}
        by_scope: dict[int, list[Unit]] = {}
        for unit in sorted(factors):
            by_scope.setdefault(self._scopes[unit[0]], []).append(unit)
        overlaps = _Overlaps(self._scopes, self._possible)
        every, refuted = {unit for units in self._open.values() for unit in units}, set[Unit]()
        for scope in sorted(by_scope.keys() | self._open.keys(), key=lambda s: s.bit_count()):
            units, sums = by_scope.get(scope, []), self._open.get(scope, [])
            lists = [self._terms[u] for u in units]
            groups = [terms for u in sums for terms in self._children[u]]
            counts = np.array([len(terms) for terms in lists + groups])
            if counts.sum() ** 2 > _MOST_PAIRS:
                return every
            meets = overlaps.between([term for terms in lists + groups for term in terms], counts)
            overlaps.add(units, meets[: len(units), : len(units)])
            start = len(units)
            for u in sums:
                stop = start + len(self._children[u])
                if np.triu(meets[start:stop, start:stop], 1).any():
                    refuted.add(u)
                start = stop
        return refuted


class _Overlaps:
    """Which factors over equal variables may be positive together."""

    def __init__(self, scopes: Sequence[int], possible: Mapping[int, Any]) -> None:
        self._scopes, self._possible = scopes, possible
        self._places: dict[Unit, int] = {}
        self._known: dict[int, np.ndarray] = {}

    def add(self, units: Sequence[Unit], meets: np.ndarray) -> None:
        for place, unit in enumerate(units):
            self._places[unit] = place
            self._known[self._scopes[unit[0]]] = meets

    def between(self, terms: Sequence[Term], counts: np.ndarray) -> np.ndarray:
        """Of lists of terms, one after the other and so long: whether two of them have terms that may meet."""
        meets = np.ones((len(terms), len(terms)), dtype=bool)
        splits: dict[tuple[int, ...], list[int]] = {}
        for n, term in enumerate(terms):
            splits.setdefault(tuple(self._scopes[unit[0]] for unit in term), []).append(n)
        for split, members in splits.items():
            alike = np.ones((len(members), len(members)), dtype=bool)
            for factor, scope in enumerate(split):
                column = [terms[n][factor] for n in members]
                if len(split) == 1:
                    alike &= self._of_inputs(column)
                else:
                    places = [self._places[unit] for unit in column]
                    alike &= self._known[scope][np.ix_(places, places)]
            meets[np.ix_(members, members)] = alike
        starts = np.minimum(counts.cumsum() - counts, len(terms) - 1)
        lists = np.logical_or.reduceat(np.logical_or.reduceat(meets, starts, 0), starts, 1)
        return lists & (counts > 0) & (counts > 0)[:, None]

    def _of_inputs(self, units: Sequence[Unit]) -> np.ndarray:
        if any(self._possible[b] is None for b, _ in units):
            return np.ones((len(units), len(units)), dtype=bool)
        rows = np.array([self._possible[b][k] for b, k in units], dtype=np.float32)
        return rows @ rows.T > 0


def _may_meet(first: Sequence[int], second: Sequence[int], scope: int) -> bool:
    """Whether every variable has a value that both allow."""
    met = 0
    for a, b in zip(first, second, strict=True):
        met |= a & b
    return met == scope


def _union(allowed: Sequence[list[int]]) -> list[int]:
    longest = max(allowed, key=len, default=[])
    found = [0] * len(longest)
    for values in allowed:
        for n, mask in enumerate(values):
            found[n] |= mask
    return found


def _possible(plan: Plan, prepared: Mapping[str, Any], block: int) -> list[list[bool]] | None:
    """Of a discrete input: which values its units allow."""
    level, place = plan.levels[plan.at[block][0]], plan.places[block]
    assert isinstance(level, InputLevel) and place is not None
    if not isinstance(level.family, Discrete):
        return None
    return (prepared[place[0]].linear[place[1]].mT > 0).tolist()
