"""The complex conjugate of a circuit, as a circuit."""

from typing import Any

from pcircuits.circuit import Circuit
from pcircuits.operations.derived import CopiedCircuit
from pcircuits.operations.signed import SignedFunction
from pcircuits.semirings import SumWeights


class ConjugateCircuit(SignedFunction, CopiedCircuit):
    """The complex conjugate of `c(x)`; made by `conjugate`."""

    def __init__(self, source: Circuit) -> None:
        super().__init__(source, source.inputs)

    def _changed(self, units: Any, apart: bool) -> Any:
        return units._replace(linear=units.linear.conj()) if isinstance(units, SumWeights) else units


def conjugate(circuit: Circuit) -> Circuit:
    """The complex conjugate of what a circuit computes: the circuit with conjugate weights, as inputs are real.
    Parameters stay shared. A circuit whose values are real is its own conjugate and returned as it is.
    """
    if isinstance(circuit, ConjugateCircuit):
        return _source(circuit)
    return ConjugateCircuit(circuit) if circuit.is_complex else circuit


def are_conjugate(first: Circuit, second: Circuit) -> bool:
    """Whether one circuit is the conjugate of the other."""
    flipped = isinstance(first, ConjugateCircuit) != isinstance(second, ConjugateCircuit)
    return _source(first) is _source(second) and flipped == first.is_complex


def _source(circuit: Circuit) -> Circuit:
    source = circuit.sources[0] if isinstance(circuit, ConjugateCircuit) else circuit
    assert isinstance(source, Circuit)
    return source
