"""Intersection, union, complement and minimisation of automata over the same tokens."""

from dataclasses import replace

import networkx as nx
import torch

import pcircuits as pc
from pcircuits.types import Bool, Tensor
from pcircuits_diffusion.constraints.automaton import DEAD, TokenAutomaton


def intersection(a: TokenAutomaton, b: TokenAutomaton) -> TokenAutomaton:
    """Texts that are in both."""
    found = _pairs(a, b)
    both = found.accepts_first & found.accepts_second
    return _finished(found.automaton, both, (a.classes >= 0) & (b.classes >= 0))


def union(a: TokenAutomaton, b: TokenAutomaton) -> TokenAutomaton:
    """Texts that are in one of them, or in both."""
    found = _pairs(a, b)
    either = found.accepts_first | found.accepts_second
    return _finished(found.automaton, either, (a.classes >= 0) | (b.classes >= 0))


def complement(a: TokenAutomaton) -> TokenAutomaton:
    """Texts of the alphabet's tokens that are not in `a`."""
    completed = _completed(a)
    return _finished(completed, ~completed.accepting, a.classes >= 0)


def minimised(a: TokenAutomaton) -> TokenAutomaton:
    """The smallest automaton of the same language and alphabet: no state that is unreachable or dead, none that
    behaves as another (Moore 1956), no class that behaves as another.
    """
    used = torch.isin(torch.arange(a.num_classes), a.classes)
    a = replace(a, transitions=torch.where(used, a.transitions, DEAD))
    useful = _useful(a)
    if not useful[a.start]:
        nothing = a.transitions.new_full((1, 1), DEAD)
        return TokenAutomaton(nothing, a.classes.clamp_max(0), torch.zeros_like(a.accepting[:1]), 0)
    number = torch.where(useful, useful.cumsum(0) - 1, DEAD)
    transitions = _renumbered(number, a.transitions[useful])
    accepting = a.accepting[useful]
    labels, count = accepting.unique(return_inverse=True)[1], 0
    while (found := int(labels.max()) + 1) > count:
        count = found
        signature = torch.cat([labels.unsqueeze(-1), _renumbered(labels, transitions)], 1)
        labels = signature.unique(dim=0, return_inverse=True)[1]
    first = torch.zeros(count, dtype=torch.long).scatter(0, labels, torch.arange(len(labels)))
    merged = _renumbered(labels, transitions[first])
    columns, column_of = merged.unique(dim=1, return_inverse=True)
    classes = _renumbered(column_of, a.classes)
    return TokenAutomaton(columns, classes, accepting[first], int(labels[number[a.start]]))


class _Pairs:
    """Both automata at once: states are the pairs that are reachable."""

    def __init__(self, a: TokenAutomaton, b: TokenAutomaton) -> None:
        width, columns = b.num_states, b.num_classes
        pairs, classes = (a.classes * columns + b.classes).unique(return_inverse=True)
        first, second = a.transitions[:, pairs // columns], b.transitions[:, pairs % columns]
        number = torch.full((a.num_states * width,), DEAD)
        states = frontier = torch.tensor([a.start * width + b.start])
        number[frontier] = 0
        while len(frontier):
            reached = (first[frontier // width] * width + second[frontier % width]).unique()
            frontier = reached[number[reached] < 0]
            number[frontier] = torch.arange(len(frontier)) + len(states)
            states = torch.cat([states, frontier])
        self.accepts_first, self.accepts_second = a.accepting[states // width], b.accepting[states % width]
        moves = number[first[states // width] * width + second[states % width]]
        self.automaton = TokenAutomaton(moves, classes, self.accepts_first)


def _pairs(a: TokenAutomaton, b: TokenAutomaton) -> _Pairs:
    if a.vocab_size != b.vocab_size:
        raise pc.ShapeError(f"automata over {a.vocab_size} and {b.vocab_size} tokens cannot be combined")
    return _Pairs(_completed(a), _completed(b))


def _completed(a: TokenAutomaton) -> TokenAutomaton:
    """Every transition leads somewhere: what was dead to a state of its own; tokens outside the alphabet too."""
    sink, outside = a.transitions.shape
    transitions = a.transitions.new_full((sink + 1, outside + 1), sink)
    transitions[:sink, :outside] = torch.where(a.transitions < 0, sink, a.transitions)
    classes = torch.where(a.classes < 0, outside, a.classes)
    return TokenAutomaton(transitions, classes, torch.cat([a.accepting, a.accepting.new_zeros(1)]), a.start)


def _finished(a: TokenAutomaton, accepting: Bool[Tensor, " Q"], alphabet: Bool[Tensor, " V"]) -> TokenAutomaton:
    return minimised(replace(a, accepting=accepting, classes=torch.where(alphabet, a.classes, DEAD)))


def _useful(a: TokenAutomaton) -> Bool[Tensor, " Q"]:
    """States that are reachable and from which a text can still be completed."""
    graph: nx.DiGraph = nx.DiGraph(a.graph)
    graph.add_node("accepted")
    graph.add_edges_from((q, "accepted") for q in a.accepting.nonzero().flatten().tolist())
    both = (nx.descendants(graph, a.start) | {a.start}) & nx.ancestors(graph, "accepted")
    return torch.zeros_like(a.accepting).index_fill(0, torch.tensor(sorted(both), dtype=torch.long), True)


def _renumbered(number: Tensor, index: Tensor) -> Tensor:
    """`number[index]`, and dead where the index is."""
    return torch.where(index < 0, DEAD, number[index.clamp_min(0)])
