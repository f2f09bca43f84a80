"""Exponential inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.family import LEAST_PROBABILITY, location_and_scale
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor


class Rate(NamedTuple):
    log_rate: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Exponential(ExponentialFamily):
    """Values of at least 0 with density `rate exp(-rate x)`. Parameter: `log_rate` (G, K).

    `mean` says where the data lies: units start around it, and smoothing pulls towards it.
    """

    mean: float = 1.0
    name = "exponential"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and self.mean > 0):
            raise ParameterError(f"{type(self).__name__} needs a positive, finite mean, got {self!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Exponential":
        return cls(max(location_and_scale(x)[0], 1e-3))

    @property
    def domain(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def logarithmic(self) -> bool:
        return True

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"log_rate": 0.7 * torch.randn(groups, units, generator=generator) - math.log(self.mean)}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Rate:
        return Rate(parameters["log_rate"])

    def log_density(self, unit: Rate, x: Tensor) -> Tensor:
        return unit.log_rate - unit.log_rate.exp() * x

    def mode(self, unit: Rate) -> Tensor:
        return torch.zeros_like(unit.log_rate)

    def moments(self, unit: Rate) -> tuple[Tensor, Tensor]:
        mean = (-unit.log_rate).exp()
        return mean, 2 * mean.square()

    def peak_and_scale(self, unit: Rate) -> tuple[Tensor, Tensor]:
        return -unit.log_rate, torch.ones_like(unit.log_rate)

    def draw(self, unit: Rate, generator: torch.Generator | None) -> Tensor:
        rate = unit.log_rate
        uniform = torch.rand(rate.shape, dtype=rate.dtype, device=rate.device, generator=generator)
        return -torch.log1p(-uniform) * (-rate).exp()

    def statistic(self, unit: Rate, x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    def mean_statistic(self, unit: Rate) -> Tensor:
        return self.moments(unit)[0].unsqueeze(-1)

    def prior_statistic(self, unit: Rate) -> Tensor:
        return unit.log_rate.new_tensor([self.mean])

    def from_statistic(self, mean: Tensor, old: Rate) -> dict[str, Tensor]:
        return {"log_rate": -mean.squeeze(-1).clamp_min(LEAST_PROBABILITY).log()}
