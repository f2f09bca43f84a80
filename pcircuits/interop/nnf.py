"""Deterministic decomposable negation normal forms, from files of c2d's format (Darwiche 2004) and D4's (Lagniez and
Marquis 2017).
"""

import math
import os

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import FormatError
from pcircuits.files import write_atomically
from pcircuits.interop.logic_circuit import circuit_of, require_formula
from pcircuits.interop.logic_lines import Line, at, read_lines, reading, require_header
from pcircuits.interop.logic_nodes import FALSE, TRUE, Nodes


def read_nnf(
    path: str | os.PathLike, *, num_variables: int | None = None, dtype: torch.dtype = torch.float64
) -> Circuit:
    """The uniform distribution over the models of a d-DNNF, from a `.nnf` file of c2d or D4.

    Variable v of the file, counted from 1, is variable v - 1 here, and true is 1. Variables that a disjunction's child
    leaves out are free there. Models are equally likely if the formula is deterministic, as the format promises:
    `pcircuits.check` says whether it is.

    Args:
        num_variables: D, default what the file says, or the largest variable in it.

    Raises:
        FormatError: a file that cannot be read, is malformed, not decomposable, or has no model.
    """
    with reading(path):
        lines = read_lines(path)
        if not lines:
            raise FormatError("it is empty")
        nodes, root = (_c2d if lines[0].kind == "nnf" else _d4)(lines, num_variables)
        return circuit_of(nodes, root, dtype)


def _c2d(lines: list[Line], num_variables: int | None) -> tuple[Nodes, int]:
    """Nodes by the number of their line, children first, the last one the root: `L literal`, `A n children`,
    `O variable n children`.
    """
    count, _, variables = require_header(lines, "nnf", numbers=3)
    if count != len(lines) - 1 or count < 1:
        raise FormatError(f"it has {len(lines) - 1} nodes, its first line says {count}")
    nodes, found = Nodes(variables if num_variables is None else num_variables), list[int]()
    for line in lines[1:]:
        with at(line):
            start = {"L": 1, "A": 2, "O": 3}.get(line.kind)
            if start is None:
                raise FormatError(f"a node's kind is {line.kind!r:.80}, expected L, A or O")
            numbers = line.integers()
            if line.kind == "L":
                if len(numbers) != 1:
                    raise FormatError("expected 'L literal'")
                found.append(nodes.literal(numbers[0]))
                continue
            below = numbers[start - 1 :]
            if len(numbers) < start - 1 or len(below) != numbers[start - 2]:
                raise FormatError("it has another number of children than it says")
            if bad := [n for n in below if not 0 <= n < len(found)]:
                raise FormatError(f"its child {bad[0]} is no earlier node")
            children = [found[n] for n in below]
            found.append(nodes.conjoin(children) if line.kind == "A" else nodes.smooth_disjoin(children))
    return nodes, found[-1]


def _d4(lines: list[Line], num_variables: int | None) -> tuple[Nodes, int]:
    """Nodes (`o`, `a`, `t` or `f`, and id), the first one the root, and edges: from, to, and literals that hold on it;
    every line ends with 0.
    """
    kinds: dict[int, str] = {}
    edges: dict[int, list[tuple[int, list[int]]]] = {}
    for line in lines:
        with at(line):
            is_node = line.kind in ("o", "a", "t", "f")
            numbers = line.integers(1 if is_node else 0)
            if numbers[-1:] != [0] or 0 in numbers[:-1] or len(numbers) < (2 if is_node else 3):
                raise FormatError("expected a node, as 'o 1 0', or an edge, as '1 2 -3 0'")
            if is_node and (len(numbers) != 2 or numbers[0] in kinds):
                raise FormatError(f"node {numbers[0]} is there twice, or its line is too long")
            if is_node:
                kinds[numbers[0]] = line.kind
            else:
                edges.setdefault(numbers[0], []).append((numbers[1], numbers[2:-1]))
    if bad := [n for a, below in edges.items() for n in (a, *(b for b, _ in below)) if n not in kinds]:
        raise FormatError(f"an edge names node {bad[0]}, which is not there")
    if not kinds:
        raise FormatError("it has no nodes")
    largest = max((abs(x) for below in edges.values() for _, literals in below for x in literals), default=0)
    nodes, found = Nodes(largest if num_variables is None else num_variables), dict[int, int]()
    root = next(iter(kinds))
    for n in _children_first(root, edges):
        if kinds[n] in ("t", "f"):
            found[n] = TRUE if kinds[n] == "t" else FALSE
            continue
        children = [
            nodes.conjoin((*(nodes.literal(x) for x in literals), found[child])) for child, literals in edges.get(n, [])
        ]
        found[n] = nodes.conjoin(children) if kinds[n] == "a" else nodes.smooth_disjoin(children)
    return nodes, found[root]


def _children_first(root: int, edges: dict[int, list[tuple[int, list[int]]]]) -> list[int]:
    """The nodes that the root reaches."""
    order: dict[int, None] = {}
    path = {root: iter(edges.get(root, []))}
    while path:
        n, below = next(reversed(path.items()))
        child = next((child for child, _ in below if child not in order), None)
        if child is None:
            order[n] = None
            del path[n]
        elif child in path:
            raise FormatError(f"node {child} lies below itself")
        else:
            path[child] = iter(edges.get(child, []))
    return list(order)


def write_nnf(circuit: Circuit, path: str | os.PathLike) -> None:
    """The worlds of positive probability as a formula, in a `.nnf` file of c2d's format: what `read_nnf` read, or a
    circuit of layer "sparse" and one unit whose weights were learned since, without those weights.

    Raises:
        StructureError: more than one unit a region, or variables of other than two values.
    """
    require_formula(circuit)
    plan, prepared = circuit.plan, circuit.prepared()
    text, numbers = _Text(), list[int]()
    for block, place in zip(plan.blocks, plan.places, strict=True):
        children = [numbers[child] for child in block.children]
        if place is None or block.kind not in ("input", "mixing"):
            numbers.append(text.node("A", children))
            continue
        possible = (prepared[place[0]].log[place[1], 0] > -math.inf).tolist()
        if block.kind == "input":
            children = [text.line(f"L {sign * (block.variables[0] + 1)}") for sign in (-1, 1)]
        numbers.append(text.node("O 0", [child for child, x in zip(children, possible, strict=True) if x]))
    header = f"nnf {len(text.lines)} {text.edges} {circuit.num_variables}"
    write_atomically(path, "\n".join([header, *text.lines, ""]).encode())


class _Text:
    """Lines of c2d's format, and how many edges they have."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges = 0

    def line(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines) - 1

    def node(self, kind: str, children: list[int]) -> int:
        self.edges += len(children)
        return self.line(" ".join(map(str, [kind, len(children), *children])))
