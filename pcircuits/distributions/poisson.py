"""Poisson inputs."""

from dataclasses import dataclass

import torch

from pcircuits.distributions.exponential import Exponential, Rate
from pcircuits.distributions.family import LEAST_PROBABILITY
from pcircuits.types import Tensor


@dataclass(frozen=True)
class Poisson(Exponential):
    """Counts 0, 1, ... with `p(x) = rate^x exp(-rate) / x!`. Parameter: `log_rate` (G, K).

    `mean` says where the data lies: units start around it, and smoothing pulls towards it.
    """

    mean: float = 1.0
    name = "poisson"
    is_integer = True

    @property
    def logarithmic(self) -> bool:
        return False

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"log_rate": -super().initialise(groups, units, generator)["log_rate"]}

    def log_density(self, unit: Rate, x: Tensor) -> Tensor:
        return x * unit.log_rate - unit.log_rate.exp() - torch.lgamma(x + 1)

    def mode(self, unit: Rate) -> Tensor:
        return unit.log_rate.exp().floor()

    def moments(self, unit: Rate) -> tuple[Tensor, Tensor]:
        rate = unit.log_rate.exp()
        return rate, rate + rate.square()

    def draw(self, unit: Rate, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(unit.log_rate.exp(), generator=generator)

    def from_statistic(self, mean: Tensor, old: Rate) -> dict[str, Tensor]:
        return {"log_rate": mean.squeeze(-1).clamp_min(LEAST_PROBABILITY).log()}
