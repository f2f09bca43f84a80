"""Circuits as files of probabilistic sentential decision diagrams (Kisa et al. 2014)."""

import math
import os
from collections.abc import Mapping

from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.files import write_atomically
from pcircuits.interop.logic_circuit import require_formula
from pcircuits.interop.psdd_nodes import Leaf, PsddNodes
from pcircuits.operations import DerivedCircuit

_LEAST = -5e-324  # the log probability of what is nearly certain: zero would exclude the other value


def write_psdd(circuit: Circuit, path: str | os.PathLike, vtree: str | os.PathLike) -> None:
    """The distribution of a circuit that `read_psdd`, `read_sdd` or `compile_cnf` made, with what it has learned since,
    in a `.psdd` and a `.vtree` file: what `read_psdd` reads, and other programs.

    Elements of probability zero are left out, which the format allows and `read_psdd` takes as they are. Any circuit
    will do that has one unit a region, variables of two values, and whose products split them as a vtree does.

    Raises:
        StructureError: a circuit that is none, or whose decisions' primes do not exclude each other.
    """
    require_formula(circuit)
    if isinstance(circuit, DerivedCircuit):
        raise StructureError("a PSDD has weights of its own, which a derived circuit has not; write its sources")
    found = PsddNodes(circuit)
    places = _places(found.splits, found.scopes[-1])
    write_atomically(vtree, _vtree_text(found.splits, places).encode())
    write_atomically(path, _psdd_text(found, places).encode())


def _places(splits: Mapping[int, tuple[int, int]], root: int) -> dict[int, int]:
    """The vtree's nodes, by their variables, in the order from left to right."""
    places: dict[int, int] = {}
    above: list[int] = []
    node: int | None = root
    while above or node is not None:
        if node is not None:
            above.append(node)
            node = splits[node][0] if node in splits else None
            continue
        node = above.pop()
        places[node] = len(places)
        node = splits[node][1] if node in splits else None
    return places


def _vtree_text(splits: Mapping[int, tuple[int, int]], places: Mapping[int, int]) -> str:
    lines = [f"vtree {len(places)}"]
    for scope in sorted(places, key=int.bit_count):
        if scope in splits:
            left, right = splits[scope]
            lines.append(f"I {places[scope]} {places[left]} {places[right]}")
        else:
            lines.append(f"L {places[scope]} {scope.bit_length()}")
    return "\n".join([*lines, ""])


def _psdd_text(found: PsddNodes, places: Mapping[int, int]) -> str:
    ids = {node: number for number, node in enumerate(found.needed())}
    lines = [f"psdd {len(ids)}"]
    for number, name in ids.items():
        node, place = found.nodes[number], places[found.scopes[number]]
        if isinstance(node, Leaf):
            lines.append(_leaf(node, name, place, found.scopes[number].bit_length()))
            continue
        elements = [f"{ids[prime]} {ids[sub]} {log!r}" for (prime, sub), log in node.items()]
        lines.append(f"D {name} {place} {len(elements)} {' '.join(elements)}")
    return "\n".join([*lines, ""])


def _leaf(node: Leaf, name: int, place: int, variable: int) -> str:
    if -math.inf in node:
        return f"L {name} {place} {variable if node.false == -math.inf else -variable}"
    true = math.log1p(-math.exp(node.false)) if node.false < node.true else node.true  # near 1 to every digit
    return f"T {name} {place} {variable} {min(true, _LEAST)!r}"
