"""A circuit's blocks as the nodes of a PSDD: leaves, and decisions along a vtree."""

import math
from collections.abc import Iterable
from itertools import combinations, product
from typing import NamedTuple

from pcircuits.blocks import scopes
from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.structures.region import variables_of

Element = tuple[int, int]  # prime and sub, as nodes


class Leaf(NamedTuple):
    """Log probabilities of a variable's values 0 and 1."""

    false: float
    true: float


Decision = dict[Element, float]
"""Elements and their log weights."""


class PsddNodes:
    """The nodes of a circuit of one unit a region over variables of two values, by block, children first.

    splits: by the variables of each decision, as a bit mask, those of its primes and of its subs.

    Raises:
        StructureError: products of more than two factors, variables that are split in different ways, or primes that
            do not exclude each other.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.nodes: list[Leaf | Decision] = []
        self.splits: dict[int, tuple[int, int]] = {}
        self.scopes = scopes(circuit.plan.blocks)
        self._same: list[int] = []
        prepared = circuit.prepared()
        for block, place in zip(circuit.plan.blocks, circuit.plan.places, strict=True):
            children = [self._same[child] for child in block.children]
            self._same.append(len(self.nodes))
            if block.kind == "input":
                assert place is not None
                self.nodes.append(Leaf(*prepared[place[0]].log[place[1], 0].double().log_softmax(-1).tolist()))
            elif block.kind == "mixing":
                assert place is not None
                weights = prepared[place[0]].log[place[1], 0].double().log_softmax(-1).tolist()
                self.nodes.append(self._mixed(list(zip(children, weights, strict=True))))
            elif len(children) == 1:
                self._same[-1] = children[0]
                self.nodes.append(self.nodes[children[0]])
            else:
                self.nodes.append({self._element(children): 0.0})
        self.root = self._same[-1]
        self._require_exclusive_primes()

    def needed(self) -> list[int]:
        """The nodes that the root reaches, children first."""
        found = {self.root}
        for number in range(self.root, -1, -1):
            if number in found and isinstance(node := self.nodes[number], dict):
                found.update(child for element in node for child in element)
        return sorted(found)

    def _element(self, children: list[int]) -> Element:
        if len(children) > 2:
            raise StructureError(f"a PSDD splits variables in two; a product here has {len(children)} factors")
        first, second = children
        masks = self.scopes[first], self.scopes[second]
        split = self.splits.setdefault(masks[0] | masks[1], masks)
        if set(split) != set(masks):
            raise StructureError(
                f"a PSDD follows a vtree; here the variables {list(variables_of(masks[0] | masks[1]))} split into "
                f"{[list(variables_of(m)) for m in masks]} and into {[list(variables_of(m)) for m in split]}"
            )
        return (first, second) if split == masks else (second, first)

    def _mixed(self, children: list[tuple[int, float]]) -> Leaf | Decision:
        """Decisions among decisions become one, sums of a variable's leaves a leaf."""
        parts = [(self.nodes[child], weight) for child, weight in children if weight > -math.inf]
        if leaves := [(node, weight) for node, weight in parts if isinstance(node, Leaf)]:
            return Leaf(*(_log_sum(node[value] + weight for node, weight in leaves) for value in (0, 1)))
        terms: dict[Element, list[float]] = {}
        for node, weight in parts:
            assert isinstance(node, dict)
            for element, log in node.items():
                terms.setdefault(element, []).append(log + weight)
        return {element: _log_sum(logs) for element, logs in terms.items()}

    def _require_exclusive_primes(self) -> None:
        primes = {
            n: [_ordered(p, q) for (p, _), (q, _) in combinations(node, 2)]
            for n in self.needed()
            if isinstance(node := self.nodes[n], dict)
        }
        exclusive = self._exclusive({pair for pairs in primes.values() for pair in pairs})
        for n, pairs in primes.items():
            if not all(exclusive[pair] for pair in pairs):
                raise StructureError(
                    "the primes of a PSDD's decision exclude each other; those of the variables "
                    f"{list(variables_of(self.splits[self.scopes[n]][0]))} here do not"
                )

    def _exclusive(self, wanted: set[Element]) -> dict[Element, bool]:
        """Whether no values make both nodes positive, of pairs over equal variables and all that they come down to."""
        below: dict[Element, list[tuple[Element, Element]]] = {}
        waiting = list(wanted)
        while waiting:
            pair = waiting.pop()
            if pair not in below:
                below[pair] = self._parts(pair)
                waiting += [part for parts in below[pair] for part in parts]
        known: dict[Element, bool] = {}
        for pair in sorted(below, key=lambda pair: self.scopes[pair[0]].bit_count()):
            one, other = (self.nodes[n] for n in pair)
            if isinstance(one, Leaf) and isinstance(other, Leaf):
                known[pair] = not any(min(both) > -math.inf for both in zip(one, other, strict=True))
            else:
                known[pair] = pair[0] != pair[1] and all(known[p] or known[s] for p, s in below[pair])
        return known

    def _parts(self, pair: Element) -> list[tuple[Element, Element]]:
        """Of two decisions, the pairs of primes and of subs of which one must exclude each other."""
        one, other = (self.nodes[n] for n in pair)
        if pair[0] == pair[1] or not isinstance(one, dict) or not isinstance(other, dict):
            return []
        return [(_ordered(p, q), _ordered(s, t)) for (p, s), (q, t) in product(one, other)]


def _ordered(first: int, second: int) -> Element:
    return (first, second) if first <= second else (second, first)


def _log_sum(logs: Iterable[float]) -> float:
    terms = list(logs)
    peak = max(terms)
    return peak if peak == -math.inf else peak + math.log(sum(math.exp(x - peak) for x in terms))
