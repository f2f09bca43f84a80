"""Hypothesis strategies: region graphs, circuits and evidence."""

from collections.abc import Sequence
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.evidence import Evidence
from pcircuits.structures import RegionGraph
from pcircuits.testing.examples import (
    EVIDENCE,
    INPUTS,
    LAYERS,
    STRUCTURES,
    WEIGHTS,
    example_circuit,
    example_evidence,
    example_graph,
)

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "pcircuits.testing needs hypothesis: pip install 'pcircuits[dev]', or hypothesis alone"
    ) from error

SEEDS = st.integers(0, 2**16)


@st.composite
def region_graphs(draw: Any, *, structures: Sequence[str] = STRUCTURES, max_variables: int = 5) -> RegionGraph:
    """Region graphs of 1 to `max_variables` variables by every builder; "from_networkx" gives any valid graph."""
    return example_graph(draw(st.sampled_from(structures)), draw(st.integers(1, max_variables)), draw(SEEDS))


@st.composite
def circuits(
    draw: Any,
    *,
    structures: Sequence[str] = STRUCTURES,
    layers: Sequence[str] = LAYERS,
    inputs: Sequence[str] = INPUTS,
    weights: Sequence[str] = WEIGHTS,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
    max_variables: int = 5,
) -> Circuit:
    """Circuits of every structure, layer, input family, kind of weights and dtype, of at most 4,096 worlds for up to 7
    variables.
    """
    structure = draw(st.sampled_from(structures))
    allowed = [i for i in inputs if i == "categorical"] if structure == "chow_liu" else list(inputs)
    return example_circuit(
        structure,
        draw(st.sampled_from(layers)),
        draw(st.sampled_from(allowed or ["categorical"])),
        weights=draw(st.sampled_from(weights)),
        num_variables=draw(st.integers(1, max_variables)),
        num_units=draw(st.integers(1, 4)),
        seed=draw(SEEDS),
        dtype=draw(st.sampled_from(dtypes)),
    )


@st.composite
def evidences(draw: Any, circuit: Circuit, *, kinds: Sequence[str] = EVIDENCE, max_batch: int = 4) -> Evidence:
    """Evidence of one of `kinds` for a circuit; kinds with weights are left out where no variable is discrete.

    Combinations of kinds within one batch have at least three rows, so that each of them occurs.
    """
    discrete = any(family.is_discrete for family in circuit.inputs)
    kind = draw(st.sampled_from([k for k in kinds if discrete or k not in ("soft", "mixed", "impossible")]))
    least = 3 if kind in ("hard", "mixed", "impossible") else 1
    return example_evidence(circuit, kind, batch=draw(st.integers(least, max(least, max_batch))), seed=draw(SEEDS))
