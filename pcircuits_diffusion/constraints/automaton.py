"""Deterministic finite automata over tokens, with the tokens that behave alike kept as one class.

Axes: Q states, C classes of tokens, V tokens, B rows, N tokens of a text.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import networkx as nx
import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor

DEAD = -1  # a transition that leaves the language for good; as a class: a token that no text contains


class Edges(NamedTuple):
    """The transitions that some token makes, one entry a state and a class."""

    source: Int[Tensor, " E"]
    column: Int[Tensor, " E"]
    target: Int[Tensor, " E"]

    def where(self, keep: Bool[Tensor, " E"]) -> "Edges":
        return Edges(self.source[keep], self.column[keep], self.target[keep])


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """A set of token sequences: those that lead from `start` to an accepting state.

    Attributes:
        transitions: (Q, C) next state of a state and a class of tokens; -1 is dead.
        classes: (V,) class of each token; -1 for tokens outside the alphabet, which no text contains (the mask,
            padding, end of text).
        accepting: (Q,) whether a text may end there.
        start: the first state.

    Raises:
        pc.ShapeError, pc.ParameterError: tensors that do not fit together.
    """

    transitions: Tensor
    classes: Tensor
    accepting: Tensor
    start: int = 0

    def __post_init__(self) -> None:
        if self.transitions.ndim != 2 or self.classes.ndim != 1:
            raise pc.ShapeError(
                "`transitions` and `classes` must have shapes (Q, C) and (V,), "
                f"got {tuple(self.transitions.shape)} and {tuple(self.classes.shape)}"
            )
        states, classes = self.transitions.shape
        if self.accepting.dtype != torch.bool or self.accepting.shape != (states,):
            raise pc.ShapeError(
                f"`accepting` must be bool of shape ({states},), got {self.accepting.dtype} of shape "
                f"{tuple(self.accepting.shape)}"
            )
        for name, index, size in (("transitions", self.transitions, states), ("classes", self.classes, classes)):
            if ((index < DEAD) | (index >= size)).any():
                raise pc.ParameterError(
                    f"`{name}` must lie in -1..{size - 1}, got {int(index.min())}..{int(index.max())}"
                )
        if not 0 <= self.start < states:
            raise pc.ParameterError(f"`start` must be a state in 0..{states - 1}, got {self.start!r}")

    @property
    def num_states(self) -> int:
        return self.transitions.shape[0]

    @property
    def num_classes(self) -> int:
        return self.transitions.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.classes.shape[0]

    @cached_property
    def edges(self) -> Edges:
        columns = torch.arange(self.num_classes, device=self.classes.device)
        source, column = ((self.transitions >= 0) & torch.isin(columns, self.classes)).nonzero(as_tuple=True)
        return Edges(source, column, self.transitions[source, column])

    @cached_property
    def graph(self) -> nx.DiGraph:
        """States, and an edge for each pair that some class of tokens connects."""
        graph: nx.DiGraph = nx.DiGraph()
        graph.add_nodes_from(range(self.num_states))
        pairs = torch.stack([self.edges.source, self.edges.target], -1).unique(dim=0)
        graph.add_edges_from(pairs.tolist())
        return graph

    @cached_property
    def shortest(self) -> int | None:
        """Tokens of the shortest text of the language; None where it has none."""
        distances = nx.single_source_shortest_path_length(self.graph, self.start)
        return min((distances[q] for q in self.accepting.nonzero().flatten().tolist() if q in distances), default=None)

    def step(self, states: Int[Tensor, " B"], tokens: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The states after one more token each; dead ones stay dead."""
        column = self.classes[tokens]
        found = self.transitions[states.clamp_min(0), column.clamp_min(0)]
        return torch.where((states < 0) | (column < 0), DEAD, found)

    def run(self, tokens: Int[Tensor, "B N"]) -> Int[Tensor, " B"]:
        """The states after texts of equal length; -1 where nothing that goes on from there is in the language."""
        states = torch.full(tokens.shape[:1], self.start, device=tokens.device)
        for column in tokens.unbind(1):
            states = self.step(states, column)
        return states

    def accepts(self, tokens: Int[Tensor, "B N"]) -> Bool[Tensor, " B"]:
        """Whether each of some texts of equal length is in the language."""
        states = self.run(tokens)
        return (states >= 0) & self.accepting[states.clamp_min(0)]

    def feasible(self, length: int) -> Bool[Tensor, "R Q"]:
        """`[r, q]`: whether exactly r more tokens can lead from q to acceptance, for r = 0..length."""
        adjacent = torch.zeros(self.num_states, self.num_states, device=self.classes.device)
        adjacent[self.edges.source, self.edges.target] = 1.0
        reached = [self.accepting]
        for _ in range(length):
            reached.append(adjacent @ reached[-1].float() > 0)
        return torch.stack(reached)

    def without(self, *tokens: int) -> "TokenAutomaton":
        """With these tokens outside the alphabet."""
        classes = self.classes.clone()
        classes[list(tokens)] = DEAD
        return replace(self, classes=classes)

    def ending(self, eos_id: int, *, then_anything: bool) -> "TokenAutomaton":
        """Texts of the language, or such a text, `eos_id` and what follows: any tokens, or further `eos_id` only."""
        states, classes = self.transitions.shape
        end, eos, outside = states, classes, classes + 1
        transitions = self.transitions.new_full((states + 1, classes + 2), DEAD)
        transitions[:end, :classes] = self.transitions
        transitions[:end, eos][self.accepting] = end
        transitions[end, slice(None) if then_anything else eos] = end
        column = torch.where(self.classes < 0, outside, self.classes)
        column[eos_id] = eos
        accepting = torch.cat([self.accepting, self.accepting.new_ones(1)])
        return TokenAutomaton(transitions, column, accepting, self.start)

    def to(self, device: torch.device) -> "TokenAutomaton":
        if self.classes.device == device:
            return self
        return TokenAutomaton(
            self.transitions.to(device), self.classes.to(device), self.accepting.to(device), self.start
        )

    def __repr__(self) -> str:
        sizes = f"{self.num_states} states, {self.num_classes} classes of {self.vocab_size} tokens"
        return f"TokenAutomaton({sizes}, shortest text {self.shortest} tokens)"
