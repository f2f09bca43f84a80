"""Gamma inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.family import location_and_scale
from pcircuits.distributions.univariate import POSITIVE
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor

_LEAST_SPREAD = 1e-7  # of log mean - mean log: bounds the shape by about 5e6
_NEWTON_STEPS = 8


class ShapeRate(NamedTuple):
    shape: Float[Tensor, "G K"]
    rate: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Gamma(ExponentialFamily):
    """Positive values with density proportional to `x^(shape - 1) exp(-rate x)`. Parameters: `log_shape` and
    `log_rate` (G, K).

    `mean` and `shape` say where the data lies: units start around them, and smoothing pulls towards them. The mode of
    a unit whose shape is at most 1, whose density grows without bound, is taken at 1e-6 / rate.
    """

    mean: float = 1.0
    shape: float = 2.0
    name = "gamma"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.shape) and self.mean > 0 and self.shape > 0):
            raise ParameterError(f"{type(self).__name__} needs a positive, finite mean and shape, got {self!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Gamma":
        mean, std = location_and_scale(x)
        mean = max(mean, 1e-3)
        return cls(mean, min(max((mean / std) ** 2, 0.1), 100.0))

    @property
    def domain(self) -> tuple[float, float]:
        return POSITIVE, math.inf

    @property
    def logarithmic(self) -> bool:
        return True

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        log_mean = math.log(self.mean) + 0.7 * torch.randn(groups, units, generator=generator)
        log_shape = torch.full_like(log_mean, math.log(self.shape))
        return {"log_shape": log_shape, "log_rate": log_shape - log_mean}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> ShapeRate:
        return ShapeRate(parameters["log_shape"].exp(), parameters["log_rate"].exp())

    def log_density(self, unit: ShapeRate, x: Tensor) -> Tensor:
        shape, rate = unit
        return shape * rate.log() + torch.xlogy(shape - 1, x) - rate * x - torch.lgamma(shape)

    def mode(self, unit: ShapeRate) -> Tensor:
        return (unit.shape - 1).clamp_min(1e-6) / unit.rate

    def moments(self, unit: ShapeRate) -> tuple[Tensor, Tensor]:
        mean = unit.shape / unit.rate
        return mean, mean * (unit.shape + 1) / unit.rate

    def peak_and_scale(self, unit: ShapeRate) -> tuple[Tensor, Tensor]:
        return (unit.shape / unit.rate).log(), torch.maximum(unit.shape.rsqrt(), 1 / unit.shape)

    def draw(self, unit: ShapeRate, generator: torch.Generator | None) -> Tensor:
        return (torch._standard_gamma(unit.shape, generator=generator) / unit.rate).clamp_min(POSITIVE)

    def statistic(self, unit: ShapeRate, x: Tensor) -> Tensor:
        return torch.stack([x, x.log()], -1)

    def mean_statistic(self, unit: ShapeRate) -> Tensor:
        return torch.stack([unit.shape / unit.rate, torch.digamma(unit.shape) - unit.rate.log()], -1)

    def prior_statistic(self, unit: ShapeRate) -> Tensor:
        shape = unit.shape.new_tensor(self.shape)
        return self.mean_statistic(ShapeRate(shape, shape / self.mean))

    def from_statistic(self, mean: Tensor, old: ShapeRate) -> dict[str, Tensor]:
        """The shape solves `log shape - digamma(shape) = log mean - mean log` (Minka 2002, "Estimating a Gamma
        distribution", by his Newton steps on 1 / shape).
        """
        first, log = mean[..., 0].clamp_min(POSITIVE), mean[..., 1]
        spread = (first.log() - log).clamp_min(_LEAST_SPREAD)
        shape = (3 - spread + ((spread - 3).square() + 24 * spread).sqrt()) / (12 * spread)
        for _ in range(_NEWTON_STEPS):
            fault = shape.log() - torch.digamma(shape) - spread
            slope = shape.square() * (1 / shape - torch.special.polygamma(1, shape))
            shape = 1 / (1 / shape + fault / slope)
        return {"log_shape": shape.log(), "log_rate": shape.log() - first.log()}
