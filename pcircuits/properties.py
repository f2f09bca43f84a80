"""Which properties a circuit has, and so which queries it answers exactly."""

from typing import NamedTuple

import torch

from pcircuits.circuit import Circuit
from pcircuits.evidence import Evidence
from pcircuits.operations.signed import SignedFunction


class Properties(NamedTuple):
    """Properties of a circuit (Vergari et al. 2021), and what each makes exact.

    smooth: the children of a sum have the same variables. decomposable: those of a product share none. The two give
    evidence, marginals, conditionals and samples.
    structured_decomposable: equal sets of variables split alike; products of two such circuits stay small.
    deterministic: no input makes two children of a sum positive, so that `mpe` and `entropy` are exact. False: some
    input does. None: unknown, a region mixes several partitions.
    normalised: the values of all worlds sum to one, as they do but in products of circuits.
    """

    smooth: bool
    decomposable: bool
    structured_decomposable: bool
    deterministic: bool | None
    normalised: bool


@torch.no_grad()
def check(circuit: Circuit, *, tolerance: float = 1e-5) -> Properties:
    """The properties of a circuit; normalised means `|log Z| <= tolerance` in nats.

    Circuits are smooth and decomposable by construction: no RegionGraph makes others.
    """
    nothing = Evidence.nothing(1, circuit.num_variables, circuit.device)
    function = isinstance(circuit, SignedFunction)
    log_z = circuit.log_partition() + (0.0 if function else circuit.condition(nothing).log_evidence[0])
    return Properties(
        smooth=True,
        decomposable=True,
        structured_decomposable=circuit.graph.is_structured_decomposable,
        deterministic=circuit.determinism(),
        normalised=not function and bool(log_z.abs() <= tolerance),
    )
