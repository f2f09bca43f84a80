"""Uniform inputs."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.bounded import Bounded
from pcircuits.distributions.family import Rows
from pcircuits.distributions.univariate import Statistic
from pcircuits.types import Bool, Float, Tensor


class Bounds(NamedTuple):
    low: Float[Tensor, "G K"]
    high: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Uniform(Bounded):
    """Values from `low` to `high`, equally likely. Each unit has a `lower` and an `upper` bound (G, K) between them, by
    default these; `set_parameters` of its group changes them, no learner does.
    """

    name = "uniform"
    fixed = frozenset({"lower", "upper"})

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"lower": torch.full((groups, units), self.low), "upper": torch.full((groups, units), self.high)}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Bounds:
        return Bounds(parameters["lower"], parameters["upper"])

    def log_density(self, unit: Bounds, x: Tensor) -> Tensor:
        width = unit.high - unit.low
        slack = 1e-6 * width  # bounds are rounded to the circuit's dtype
        inside = (unit.low - slack <= x) & (x <= unit.high + slack)
        return torch.where(inside, -width.log(), -torch.inf)

    def mode(self, unit: Bounds) -> Tensor:
        return (unit.low + unit.high) / 2

    def moments(self, unit: Bounds) -> tuple[Tensor, Tensor]:
        low, high = unit
        return (low + high) / 2, (low.square() + low * high + high.square()) / 3

    def draw(self, unit: Bounds, generator: torch.Generator | None) -> Tensor:
        low, high = unit
        return low + (high - low) * torch.rand(low.shape, dtype=low.dtype, device=low.device, generator=generator)

    def log_mass(self, unit: Bounds, low: Tensor, high: Tensor) -> Tensor:
        low, high = self._within(unit, low, high)
        return (high - low).clamp_min(0.0).log() - (unit.high - unit.low).log()

    def truncated(self, unit: Bounds, low: Tensor, high: Tensor, statistic: Statistic) -> Tensor:
        return super().truncated(unit, *self._within(unit, low, high), statistic)

    def draw_between(
        self, unit: Bounds, low: Tensor, high: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        return super().draw_between(unit, *self._within(unit, low, high), temperature, generator)

    def overlap(self, prepared: Bounds, rows: Rows) -> Bool[Tensor, "F K K"]:
        low, high = (end[rows] for end in prepared)
        return (low.unsqueeze(-1) <= high.unsqueeze(-2)) & (low.unsqueeze(-2) <= high.unsqueeze(-1))

    def _within(self, unit: Bounds, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return torch.maximum(low, unit.low), torch.minimum(high, unit.high)
