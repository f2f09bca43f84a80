"""Rooted trees over the variables of an input region."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pcircuits.errors import ParameterError, StructureError


class Link(NamedTuple):
    """A variable, its parent, and which of the tables is its own."""

    child: int
    parent: int
    table: int


@dataclass(frozen=True)
class TreeShape:
    """The parent of each variable, -1 of the root. Variables but the root have a table each, in their order."""

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        size = len(self.parents)
        known = all(type(p) is int and -1 <= p < size for p in self.parents)
        if size < 2 or not known or self.parents.count(-1) != 1 or len(self.order) != size - 1:
            raise ParameterError(
                "`parents` must make one tree of at least 2 variables: a place of another for each, and -1 for the "
                f"root; got {self.parents!r:.80}"
            )

    @cached_property
    def root(self) -> int:
        return self.parents.index(-1)

    @cached_property
    def order(self) -> tuple[Link, ...]:
        """From the root down."""
        found, reached = list[Link](), [self.root]
        for parent in reached:
            children = [m for m, p in enumerate(self.parents) if p == parent]
            found += [Link(m, parent, m - (m > self.root)) for m in children]
            reached += children
        return tuple(found)

    def of_some(self, kept: Sequence[int]) -> "TreeShape":
        """Of some variables with all others summed out: their parents are the nearest ones kept above them, and of two
        without one, the first.

        Raises:
            StructureError: more than two of them meet at variables that are left out: then they make no tree.
        """
        place, meeting, parents = {m: n for n, m in enumerate(kept)}, dict[int, list[int]](), list[int]()
        for n, m in enumerate(kept):
            top, above = m, self.parents[m]
            while above >= 0 and above not in place:
                top, above = above, self.parents[above]
            meeting.setdefault(top, []).append(n)
            if len(meeting[top]) + (above >= 0) > 2:
                raise StructureError(
                    f"variables {list(kept)} of a region are no tree without the others: more than two of them meet at "
                    f"variable {top} or below. Give those as evidence in place of leaving them out"
                )
            first = meeting[top][0]
            parents.append(place[above] if above >= 0 else -1 if first == n else first)
        return TreeShape(tuple(parents))
