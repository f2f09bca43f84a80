"""For tests, ours and yours: an oracle by enumeration, hypothesis strategies, and checks that any circuit or input
family must pass.
"""

from pcircuits.testing.contracts import check_circuit, check_input_family, check_posterior
from pcircuits.testing.enumeration import Enumeration, worlds
from pcircuits.testing.examples import (
    EVIDENCE,
    INPUTS,
    LAYERS,
    STRUCTURES,
    WEIGHTS,
    example_circuit,
    example_evidence,
    example_graph,
    has_kind,
    reshape_weights,
)
from pcircuits.testing.goodness import p_value, sample_p_values
from pcircuits.testing.strategies import circuits, evidences, region_graphs

__all__ = [
    "EVIDENCE",
    "INPUTS",
    "LAYERS",
    "STRUCTURES",
    "WEIGHTS",
    "Enumeration",
    "check_circuit",
    "check_input_family",
    "check_posterior",
    "circuits",
    "evidences",
    "example_circuit",
    "example_evidence",
    "example_graph",
    "has_kind",
    "p_value",
    "region_graphs",
    "reshape_weights",
    "sample_p_values",
    "worlds",
]
