"""Flows of circuits with signed weights, which add up to one and may be negative: derivatives, not shares."""

from collections.abc import Iterator
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import InputFamily
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence, InputEvidence
from pcircuits.plan import InputLevel
from pcircuits.semirings import Signed, Values
from pcircuits.types import Float, Tensor


def signed_flows(circuit: Circuit, evidence: Evidence) -> list[tuple[InputLevel, Float[Tensor, "F B K"]]]:
    """The derivative of the log of the circuit's value with respect to each input unit's log value, in float64."""
    levels = [level for level in circuit.plan.levels if isinstance(level, InputLevel)]
    with torch.no_grad():
        prepared = circuit.prepared()
    with torch.enable_grad():
        tilts = [
            torch.zeros(
                level.num_rows,
                evidence.batch_size,
                level.num_units,
                dtype=torch.float64,
                device=evidence.device,
                requires_grad=True,
            )
            for level in levels
        ]
        log_value = upward(circuit.plan, prepared, evidence, _Tilted(iter(tilts))).log_evidence
        flows = torch.autograd.grad(log_value.sum(), tilts)
    return list(zip(levels, flows, strict=True))


class _Tilted(Signed):
    """Input levels, in the order in which they are evaluated, have their values times one plus the next tilt."""

    def __init__(self, tilts: Iterator[Float[Tensor, "F B K"]]) -> None:
        super().__init__(non_negative=True)
        self.tilts = tilts

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        values = super().inputs(family, prepared, rows, evidence)
        return values._replace(v=values.v * (1.0 + next(self.tilts)))
