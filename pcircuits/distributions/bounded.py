"""Families over an interval that no learner changes."""

import math
from dataclasses import dataclass
from typing import Any

from pcircuits.distributions.family import Rows, Smoothing
from pcircuits.distributions.univariate import Univariate
from pcircuits.errors import ParameterError
from pcircuits.evidence import InputEvidence
from pcircuits.types import Tensor
from pcircuits.workspace import Memory


@dataclass(frozen=True)
class Bounded(Univariate):
    """Values from `low` to `high`. EM counts how often units are reached and keeps their parameters."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ParameterError(f"{type(self).__name__} needs finite bounds low < high, got {self!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Bounded":
        low, high = float(x.min()), float(x.max())
        return cls(low, high if high > low else low + 1.0)

    @property
    def domain(self) -> tuple[float, float]:
        return self.low, self.high

    def statistics(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        reached = flows.new_zeros(prepared[0].shape).index_add(0, rows, flows.sum(1))
        return {"counts": reached.unsqueeze(-1)}

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Any
    ) -> dict[str, Tensor]:
        return {}
