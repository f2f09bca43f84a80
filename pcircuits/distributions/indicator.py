"""Indicator inputs."""

from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.distributions.family import Smoothing
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class Indicator(Discrete):
    """Values 0..V-1, of which each unit has one and excludes the others. No learner changes the units' `value` (G, K),
    by default `k mod V`; `set_parameters` of their group does.

    They make sums above them deterministic, and a circuit that of a logical formula.
    """

    num_categories: int
    name = "indicator"
    fixed = frozenset({"value"})

    def __post_init__(self) -> None:
        if not isinstance(self.num_categories, int) or self.num_categories < 1:
            raise ParameterError(f"`num_categories` must be a positive integer, got {self.num_categories!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Indicator":
        return cls(int(x.max()) + 1)

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"value": (torch.arange(units, dtype=torch.get_default_dtype()) % self.num_categories).repeat(groups, 1)}

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        value = parameters["value"]
        chosen = value.unsqueeze(-1) == torch.arange(self.num_categories, device=value.device)
        return torch.where(chosen, torch.zeros((), dtype=value.dtype, device=value.device), -torch.inf)

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        return {"value": table.argmax(-1).to(table.dtype)}

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        return {}
