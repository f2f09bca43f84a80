"""Sentential decision diagrams (Darwiche 2011) and probabilistic ones (Kisa et al. 2014), from their files."""

import math
import os

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import FormatError
from pcircuits.interop.logic_circuit import circuit_of
from pcircuits.interop.logic_lines import Line, at, read_lines, reading, require_header
from pcircuits.interop.logic_nodes import FALSE, TRUE, Nodes
from pcircuits.interop.vtree import Vtree, read_vtree

_MOST_ABOVE_ONE = 1e-6  # log probabilities are rounded in files


def read_sdd(path: str | os.PathLike, vtree: str | os.PathLike, *, dtype: torch.dtype = torch.float64) -> Circuit:
    """The uniform distribution over the models of an SDD, from its `.sdd` and `.vtree` files.

    Variable v of the files, counted from 1, is variable v - 1 here, and true is 1. The circuit is deterministic, and
    structured by the vtree: variables that a node leaves out are filled in as the vtree splits them.

    Raises:
        FormatError: a file that cannot be read, is malformed, does not fit the vtree, or has no model.
    """
    return _read(path, vtree, "sdd", dtype)


def read_psdd(path: str | os.PathLike, vtree: str | os.PathLike, *, dtype: torch.dtype = torch.float64) -> Circuit:
    """The distribution of a PSDD, from its `.psdd` and `.vtree` files; like `read_sdd`, but with the file's parameters,
    normalised.
    """
    return _read(path, vtree, "psdd", dtype)


def _read(path: str | os.PathLike, vtree: str | os.PathLike, kind: str, dtype: torch.dtype) -> Circuit:
    tree = read_vtree(vtree)
    with reading(path):
        lines = read_lines(path)
        (count,) = require_header(lines, kind, numbers=1)
        if count != len(lines) - 1:
            raise FormatError(f"it has {len(lines) - 1} nodes, its first line says {count}")
        reader = _Reader(tree, kind == "psdd")
        for line in lines[1:]:
            with at(line):
                reader.read(line)
        return circuit_of(reader.nodes, reader.root(), dtype)


class _Reader:
    """`found` holds the nodes by their ids in the file; the last one is the root."""

    def __init__(self, vtree: Vtree, probabilistic: bool) -> None:
        self.vtree, self.probabilistic = vtree, probabilistic
        self.nodes = Nodes(vtree.num_variables)
        self.free = vtree.free(self.nodes)
        self.found: dict[int, int] = {}

    def root(self) -> int:
        if not self.found:
            raise FormatError("it has no nodes")
        return self.vtree.lift(self.nodes, list(self.found.values())[-1], self.vtree.root, self.free)

    def read(self, line: Line) -> None:
        number = line.integer(1)
        if number in self.found:
            raise FormatError(f"node {number} is there twice")
        self.found[number] = self._node(line)

    def _node(self, line: Line) -> int:
        if line.kind in ("T", "F") and not self.probabilistic:
            return TRUE if line.kind == "T" else FALSE
        if line.kind not in ("L", "D", "T"):
            raise FormatError(f"a node's kind is {line.kind!r:.80}, expected L, D, T or, of an SDD, F")
        v = line.integer(2)
        if v not in self.vtree.scopes:
            raise FormatError(f"the vtree has no node {v}")
        if line.kind == "D":
            return self._decision(line, v)
        literal = line.integer(3)
        if v in self.vtree.children or self.vtree.scopes[v].bit_length() != abs(literal):
            raise FormatError(f"vtree node {v} is no leaf of variable {abs(literal)}")
        if line.kind == "L":
            return self.nodes.literal(literal)
        true = line.number_at(4)
        if true > _MOST_ABOVE_ONE:
            raise FormatError(f"a log probability must be at most 0, got {true}")
        false = math.log(-math.expm1(true)) if true < 0 else -math.inf
        return self.nodes.input(abs(literal) - 1, (false, min(true, 0.0)))

    def _decision(self, line: Line, v: int) -> int:
        width, count = 3 if self.probabilistic else 2, line.integer(3)
        if v not in self.vtree.children or len(line.words) != 4 + width * count:
            raise FormatError(
                f"expected 'D id vtree n' with an inner node of the vtree, and {width} numbers an element"
            )
        left, right = self.vtree.children[v]
        elements, log_weights = [], []
        for start in range(4, len(line.words), width):
            prime, sub = self._lifted(line.integer(start), left), self._lifted(line.integer(start + 1), right)
            elements.append(self.nodes.conjoin((prime, sub)))
            log_weights.append(line.number_at(start + 2) if self.probabilistic else 0.0)
        return self.nodes.disjoin(elements, log_weights if self.probabilistic else None)

    def _lifted(self, number: int, v: int) -> int:
        if number not in self.found:
            raise FormatError(f"its child {number} is no earlier node")
        return self.vtree.lift(self.nodes, self.found[number], v, self.free)
