"""Negative binomial inputs."""

from dataclasses import dataclass

import torch

from pcircuits.distributions.gamma import Gamma, ShapeRate
from pcircuits.types import Tensor


@dataclass(frozen=True)
class NegativeBinomial(Gamma):
    """Counts 0, 1, ... whose Poisson rate has a Gamma distribution (Greenwood, Yule 1920). Parameters: `log_shape` and
    `log_rate` (G, K) of that Gamma: the number of failures is `shape`, the probability of one `rate / (1 + rate)`.

    `mean` and `shape` say where the data lies. EM completes each count by its latent rate, whose posterior is
    `Gamma(shape + x, rate + 1)`, and so never lowers the likelihood.
    """

    mean: float = 1.0
    shape: float = 2.0
    name = "negative_binomial"
    is_integer = True

    @property
    def domain(self) -> tuple[float, float]:
        return 0.0, float("inf")

    @property
    def logarithmic(self) -> bool:
        return False

    def log_density(self, unit: ShapeRate, x: Tensor) -> Tensor:
        shape, rate = unit
        log_ways = torch.lgamma(x + shape) - torch.lgamma(shape) - torch.lgamma(x + 1)
        return log_ways + shape * (rate.log() - torch.log1p(rate)) - x * torch.log1p(rate)

    def mode(self, unit: ShapeRate) -> Tensor:
        return ((unit.shape - 1).clamp_min(0.0) / unit.rate).floor()

    def moments(self, unit: ShapeRate) -> tuple[Tensor, Tensor]:
        mean, square = super().moments(unit)
        return mean, mean + square

    def draw(self, unit: ShapeRate, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(super().draw(unit, generator), generator=generator)

    def statistic(self, unit: ShapeRate, x: Tensor) -> Tensor:
        return self.mean_statistic(ShapeRate(x + unit.shape, unit.rate + 1))

    def mean_statistic(self, unit: ShapeRate) -> Tensor:
        rate = unit.rate.expand_as(unit.shape)
        return torch.stack([unit.shape / rate, torch.digamma(unit.shape) - rate.log()], -1)
