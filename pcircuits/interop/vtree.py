"""Vtrees (Pipatsrisawat and Darwiche 2008): binary trees over variables that say how formulas split."""

import os
from functools import cached_property

from pcircuits.errors import FormatError
from pcircuits.interop.logic_lines import Line, at, read_lines, reading, require_header
from pcircuits.interop.logic_nodes import FALSE, MOST_VARIABLES, Nodes


class Vtree:
    """The nodes of a `.vtree` file by their ids: their variables as a bit mask, their children, children first."""

    def __init__(self, lines: list[Line]) -> None:
        (count,) = require_header(lines, "vtree", numbers=1)
        if count != len(lines) - 1:
            raise FormatError(f"it has {len(lines) - 1} nodes, its first line says {count}")
        if not 1 <= count < 2 * MOST_VARIABLES:
            raise FormatError(f"it has {count} nodes, expected 1 to {2 * MOST_VARIABLES - 1}")
        self.scopes: dict[int, int] = {}
        self.children: dict[int, tuple[int, int]] = {}
        self.parents: dict[int, int] = {}
        for line in lines[1:]:
            with at(line):
                self._read(line, count)
        roots = [v for v in self.scopes if v not in self.parents]
        self.num_variables = (count + 1) // 2
        if len(roots) != 1 or self.scopes[roots[0]] != (1 << self.num_variables) - 1:
            raise FormatError(f"it must be one tree over the variables 1 to {self.num_variables}")
        self.root = roots[0]

    @cached_property
    def of_scope(self) -> dict[int, int]:
        return {scope: v for v, scope in self.scopes.items()}

    def _read(self, line: Line, count: int) -> None:
        numbers = line.integers()
        if line.kind not in ("L", "I") or len(numbers) != (2 if line.kind == "L" else 3):
            raise FormatError("expected 'L id variable' or 'I id left right'")
        v, *rest = numbers
        if v in self.scopes:
            raise FormatError(f"node {v} is there twice")
        if line.kind == "L":
            if not 1 <= rest[0] <= count:
                raise FormatError(f"a tree of {count} nodes has no variable {rest[0]}")
            self.scopes[v] = 1 << (rest[0] - 1)
            return
        left, right = rest
        if left == right or any(c not in self.scopes or c in self.parents for c in rest):
            raise FormatError("its children must be two earlier nodes that have no parent yet")
        if self.scopes[left] & self.scopes[right]:
            raise FormatError("its children share a variable")
        self.parents[left] = self.parents[right] = v
        self.children[v] = (left, right)
        self.scopes[v] = self.scopes[left] | self.scopes[right]

    def free(self, nodes: Nodes) -> dict[int, int]:
        """By vtree node: true, over its variables and split as it splits them."""
        found: dict[int, int] = {}
        for v, scope in self.scopes.items():
            found[v] = nodes.conjoin(found[c] for c in self.children[v]) if v in self.children else nodes.free(scope)
        return found

    def lift(self, nodes: Nodes, node: int, v: int, free: dict[int, int]) -> int:
        """The node over all variables of `v`, split as the vtree splits them.

        Raises:
            FormatError: its variables are not those of `v` or a vtree node below.
        """
        if node == FALSE:
            return FALSE
        if not (scope := nodes.scope(node)):
            return free[v]
        place = self.of_scope.get(scope)
        while place is not None and place != v:
            above = self.parents.get(place)
            if above is None:
                break
            left, right = self.children[above]
            node = nodes.conjoin((node, free[right]) if place == left else (free[left], node))
            place = above
        if place != v:
            raise FormatError(f"a child does not lie below vtree node {v}, where it must")
        return node


def read_vtree(path: str | os.PathLike) -> Vtree:
    with reading(path):
        return Vtree(read_lines(path))
