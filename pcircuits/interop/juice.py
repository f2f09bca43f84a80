"""Text files of Juice.jl (Dang et al. 2021): `.jpc`, `.spn` of ProbabilisticCircuits.jl, `.jlc` of LogicCircuits.jl."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import FormatError
from pcircuits.interop.logic_circuit import circuit_of
from pcircuits.interop.logic_lines import Line, at, read_lines, reading, require_header
from pcircuits.interop.logic_nodes import FALSE, TRUE, Nodes
from pcircuits.interop.weighted_nodes import Weighted, WeightedNodes

N = TypeVar("N", int, Weighted)

_MOST_VALUES = 1 << 16


def read_spn(path: str | os.PathLike, *, dtype: torch.dtype = torch.float64) -> Circuit:
    """The distribution in a `.spn` file of ProbabilisticCircuits.jl, over variables of two values.

    Variables are counted from 0, weights are natural logarithms. Sums need not be smooth nor their weights add up to
    one: the value that the file gives complete data, divided by its sum over all data, is the probability. A variable
    that a sum's child lacks is uniform there.

    Raises:
        FormatError: a file that cannot be read, is malformed, not decomposable, or zero everywhere.
        ParameterError: another dtype.
    """
    with reading(path):
        lines = read_lines(path)
        domains = " ".join(lines[0].words) if lines else ""
        if not domains or domains != f"({' '.join(['2'] * len(lines[0].words))})":
            raise FormatError(f"it must start with one 2 a variable, as '(2 2 2)', got {domains[:80]!r}")
        if len(lines) < 3 or lines[-1].words != ["EOF"]:
            raise FormatError("it must have nodes, and end with 'EOF'")
        made = WeightedNodes(len(lines[0].words), {})
        found: dict[int, Weighted] = {}
        for number, line in enumerate(lines[1:-1]):
            with at(line):
                found[number] = _spn_node(line, made, found)
        return circuit_of(made.nodes, found[len(lines) - 3].node, dtype)


def read_jlc(path: str | os.PathLike, *, dtype: torch.dtype = torch.float64) -> Circuit:
    """The uniform distribution over the models of a logic circuit, from a `.jlc` file of LogicCircuits.jl; like
    `read_nnf`. Nodes' vtrees are not read.

    Raises:
        FormatError: a file that cannot be read, is malformed, not decomposable, or has no model.
    """
    with reading(path):
        lines = _counted(path, "jlc")
        literals = [abs(line.integer(3)) for line in lines if line.kind == "L" and len(line.words) == 4]
        nodes, found = Nodes(max(literals, default=0)), dict[int, int]()
        for line in lines:
            with at(line):
                number = _new(line, found)
                if line.kind in ("T", "F") and len(line.words) == 2:
                    found[number] = TRUE if line.kind == "T" else FALSE
                elif line.kind == "L" and len(line.words) == 4:
                    found[number] = nodes.literal(line.integer(3))
                elif line.kind in ("O", "A"):
                    children = [_child(found, line.integer(place)) for place in _places(line, 4, 1)]
                    found[number] = nodes.conjoin(children) if line.kind == "A" else nodes.smooth_disjoin(children)
                else:
                    raise FormatError("expected 'T id', 'F id', 'L id vtree literal', or O or A with children")
        return circuit_of(nodes, next(reversed(found.values())), dtype)


def read_text_jpc(path: str | os.PathLike, dtype: torch.dtype) -> Circuit:
    """The distribution in a `.jpc` file of ProbabilisticCircuits.jl, as of `read_spn`; variable v of the file, counted
    from 1, is variable v - 1 here. Its literals, indicators, categoricals and binomials become categorical inputs, of
    as many values as the largest of a variable has.
    """
    with reading(path):
        lines = _counted(path, "jpc")
        sizes: dict[int, int] = {}
        for line in lines:
            if line.kind in ("L", "I", "C", "B"):
                with at(line):
                    variable, size = _variable_and_size(line)
                    sizes[variable] = max(sizes.get(variable, 2), size)
        made, found = WeightedNodes(max(sizes, default=-1) + 1, sizes), dict[int, Weighted]()
        for line in lines:
            with at(line):
                found[_new(line, found)] = _jpc_node(line, made, found)
        return circuit_of(made.nodes, next(reversed(found.values())).node, dtype)


def _counted(path: str | os.PathLike, kind: str) -> list[Line]:
    """The lines of the nodes, as many as the first line says."""
    lines = read_lines(path)
    (count,) = require_header(lines, kind, numbers=1)
    if count != len(lines) - 1 or count < 1:
        raise FormatError(f"it has {len(lines) - 1} nodes, its first line says {count}")
    return lines[1:]


def _new(line: Line, found: Mapping[int, N]) -> int:
    number = line.integer(1)
    if number in found:
        raise FormatError(f"node {number} is there twice")
    return number


def _child(found: Mapping[int, N], number: int) -> N:
    if number not in found:
        raise FormatError(f"its child {number} is no earlier node")
    return found[number]


def _places(line: Line, start: int, width: int) -> range:
    """Where the words of each child start, of which there are as many as the word before says."""
    if line.integer(start - 1) < 1 or len(line.words) != start + width * line.integer(start - 1):
        raise FormatError("it has another number of children than it says")
    return range(start, len(line.words), width)


def _variable_and_size(line: Line) -> tuple[int, int]:
    """Of an input: its variable, from 0, and how many values it speaks of."""
    variable = abs(line.integer(3)) if line.kind == "L" else line.integer(3)
    wrong = {"L": len(line.words) != 4, "I": len(line.words) != 5, "C": len(line.words) < 5, "B": len(line.words) != 6}
    if variable < 1 or wrong[line.kind]:
        raise FormatError("an input has an id, a vtree, a variable from 1 on, and what its kind needs")
    size = {"L": 2, "C": len(line.words) - 4}.get(line.kind) or line.integer(4) + 1
    if not 1 <= size <= _MOST_VALUES:
        raise FormatError(f"a variable may have up to {_MOST_VALUES} values here, got {size}")
    return variable - 1, size


def _jpc_node(line: Line, made: WeightedNodes, found: dict[int, Weighted]) -> Weighted:
    if line.kind == "P":
        return made.product([_child(found, line.integer(place)) for place in _places(line, 4, 1)])
    if line.kind == "S":
        return _sum(line, _places(line, 4, 2), made, found)
    if line.kind not in ("L", "I", "C", "B"):
        raise FormatError(f"a node's kind is {line.kind!r:.80}, expected L, I, C, B, P or S")
    variable, size = _variable_and_size(line)
    if line.kind == "C":
        return made.input(variable, [line.number_at(place) for place in range(4, len(line.words))])
    if line.kind == "B":
        return made.input(variable, _binomial(size - 1, line.number_at(5)))
    value = line.integer(4) if line.kind == "I" else int(line.integer(3) > 0)
    return made.input(variable, [0.0 if v == value else -math.inf for v in range(size)])


def _spn_node(line: Line, made: WeightedNodes, found: dict[int, Weighted]) -> Weighted:
    if line.kind == "v" and len(line.words) == 3 and line.words[2] in ("0", "1"):
        value = int(line.words[2])
        return made.input(line.integer(1), [0.0 if v == value else -math.inf for v in range(2)])
    if line.kind == "*" and len(line.words) > 1:
        return made.product([_child(found, number) for number in line.integers()])
    if line.kind == "+" and len(line.words) > 1 and len(line.words) % 2:
        return _sum(line, range(1, len(line.words), 2), made, found)
    raise FormatError("expected 'v variable value' with a value of 0 or 1, '* children', or '+' children with weights")


def _sum(line: Line, places: Sequence[int], made: WeightedNodes, found: dict[int, Weighted]) -> Weighted:
    children = [_child(found, line.integer(place)) for place in places]
    return made.sum(children, [line.number_at(place + 1) for place in places])


def _binomial(n: int, log_p: float) -> list[float]:
    """Log probabilities of 0 to n successes."""
    if log_p > 0:
        raise FormatError(f"a log probability must be at most 0, got {log_p}")
    if log_p in (0.0, -math.inf):
        return [0.0 if k == (n if log_p == 0.0 else 0) else -math.inf for k in range(n + 1)]
    log_q, whole = math.log(-math.expm1(log_p)), math.lgamma(n + 1)
    return [whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q for k in range(n + 1)]
