"""How a derived circuit comes of others, as JSON objects: parts with parameters of their own, and steps on them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import ParameterError, StructureError
from pcircuits.operations import (
    ConjugateCircuit,
    DerivativeCircuit,
    DerivedCircuit,
    MixtureCircuit,
    ProductCircuit,
    ProjectedCircuit,
    condition,
    conjugate,
    differentiate,
    marginalize,
    mixture,
    multiply,
)

MOST_STEPS, MOST_UNITS = 64, 1 << 16  # of a file: larger ones take no less work to read than to make again

Step = dict[str, Any]


def derivation_of(circuit: Circuit) -> tuple[list[Circuit], list[Step]]:
    """The circuits that a circuit is made of, each once, and the steps that make it; of any other the circuit alone.

    Sources are counted from 0: the parts, then the results of the steps, the last of which is the circuit.

    Raises:
        ParameterError: a derived circuit that no operation of the library makes.
    """
    found: dict[int, Circuit] = {}
    _collect(circuit, found)
    parts = [c for c in found.values() if not isinstance(c, DerivedCircuit)]
    derived = [c for c in found.values() if isinstance(c, DerivedCircuit)]
    place = {id(c): n for n, c in enumerate([*parts, *derived])}
    return parts, [_step(c, [place[id(source)] for source in c.sources]) for c in derived]


def rebuild(parts: Sequence[Circuit], steps: Sequence[Any]) -> Circuit:
    """The circuit that the steps make of the parts, which keep their parameters.

    Raises:
        StructureError, ShapeError, EvidenceError: steps that are no such objects, or that do not apply.
    """
    circuits = list(parts)
    if len(steps) > MOST_STEPS:
        raise StructureError(f"a circuit comes of at most {MOST_STEPS} steps, got {len(steps)}")
    for step in steps:
        operation = step.get("operation") if isinstance(step, dict) else None
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise StructureError(f"a step's operation must be one of {', '.join(OPERATIONS)}, got {step!r:.80}")
        arity, argument, apply = OPERATIONS[operation]
        wanted = {"operation", "sources", *([argument] if argument else [])}
        sources = step.get("sources")
        if step.keys() != wanted or not isinstance(sources, list) or len(sources) != (arity or len(sources)):
            count = arity or "any number of"
            raise StructureError(f"{operation!r} has {', '.join(sorted(wanted))} and {count} sources, got {step!r:.80}")
        if bad := [n for n in sources if type(n) is not int or not 0 <= n < len(circuits)]:
            raise StructureError(
                f"'sources' must count what comes before, {len(circuits)} circuits; got {bad[0]!r:.80}"
            )
        made = apply([circuits[n] for n in sources], step.get(argument))
        if made.num_units > MOST_UNITS:
            raise StructureError(f"{operation!r} makes {made.num_units} units a region, more than {MOST_UNITS}")
        circuits.append(made)
    return circuits[-1]


def _collect(circuit: Circuit, found: dict[int, Circuit]) -> None:
    if id(circuit) in found:
        return
    for source in getattr(circuit, "sources", ()):
        _collect(source, found)
    found[id(circuit)] = circuit


def _step(circuit: DerivedCircuit, sources: list[int]) -> Step:
    if isinstance(circuit, ProductCircuit):
        return {"operation": "multiply", "sources": [sources[0], sources[-1]]}
    if isinstance(circuit, ConjugateCircuit):
        return {"operation": "conjugate", "sources": sources}
    if isinstance(circuit, MixtureCircuit):
        logs = [log if math.isfinite(log) else None for log in circuit.log_shares.tolist()]
        return {"operation": "mixture", "sources": sources, "log_shares": logs}
    if isinstance(circuit, DerivativeCircuit):
        return {"operation": "differentiate", "sources": sources, "variable": circuit.variable}
    if isinstance(circuit, ProjectedCircuit) and circuit.values is None:
        return {"operation": "marginalize", "sources": sources, "keep": list(circuit.kept)}
    if isinstance(circuit, ProjectedCircuit) and circuit.values is not None:
        return {"operation": "condition", "sources": sources, "values": list(map(list, circuit.values.items()))}
    raise ParameterError(f"save knows no operation that makes a {type(circuit).__qualname__}")


def _multiply(sources: list[Circuit], _: Any) -> Circuit:
    return multiply(*sources)


def _conjugate(sources: list[Circuit], _: Any) -> Circuit:
    return conjugate(sources[0])


def _mixture(sources: list[Circuit], log_shares: Any) -> Circuit:
    """`log_shares`: null where a share is zero."""
    given: list[Any] = log_shares if isinstance(log_shares, list) else []
    if (
        len(given) != len(sources)
        or not all(log is None or _is_number(log) for log in given)
        or not any(log is not None for log in given)
    ):
        raise StructureError(f"'log_shares' must list a number or null a source, got {log_shares!r:.80}")
    made = mixture(sources)
    with torch.no_grad():
        made.log_shares.copy_(torch.tensor([-math.inf if log is None else log for log in given], dtype=torch.float64))
    return made


def _marginalize(sources: list[Circuit], keep: Any) -> Circuit:
    if not isinstance(keep, list) or not all(type(v) is int for v in keep):
        raise StructureError(f"'keep' must list variables, got {keep!r:.80}")
    return marginalize(sources[0], keep)


def _condition(sources: list[Circuit], values: Any) -> Circuit:
    pairs: list[Any] = values if isinstance(values, list) else [None]
    if not all(isinstance(p, list) and len(p) == 2 and type(p[0]) is int and _is_number(p[1]) for p in pairs):
        raise StructureError(f"'values' must list pairs of a variable and its value, got {values!r:.80}")
    return condition(sources[0], {pair[0]: pair[1] for pair in pairs})


def _differentiate(sources: list[Circuit], variable: Any) -> Circuit:
    return differentiate(sources[0], variable if type(variable) is int else -1)


def _is_number(x: object) -> bool:
    return type(x) in (int, float) and math.isfinite(x) and abs(x) < 2**63  # type: ignore[arg-type]


# how many sources (0: any number), what else a step holds, and the function
OPERATIONS: dict[str, tuple[int, str, Callable[[list[Circuit], Any], Circuit]]] = {
    "multiply": (2, "", _multiply),
    "conjugate": (1, "", _conjugate),
    "mixture": (0, "log_shares", _mixture),
    "marginalize": (1, "keep", _marginalize),
    "condition": (1, "values", _condition),
    "differentiate": (1, "variable", _differentiate),
}
