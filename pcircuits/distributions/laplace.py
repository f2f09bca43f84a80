"""Laplace inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.family import location_and_scale
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor

_NEAR = 1e-6  # in scales: closer values count as this far, which is off by at most half as many nats
_MEAN_WEIGHT = 14.238295393046796  # E[scale / max(|x - loc|, _NEAR scale)] = (1 - exp(-n)) / n + E1(n)


class LocationScale(NamedTuple):
    loc: Float[Tensor, "G K"]
    scale: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Laplace(ExponentialFamily):
    """Real values with density `exp(-|x - loc| / scale) / (2 scale)`. Parameters: `location` and `log_scale` (G, K).

    `loc` and `scale` say where the data lies: units start there, and smoothing pulls towards them. The likelihood is
    greatest at a weighted median, which no statistic of a fixed size gives; EM takes the distribution as a Gaussian
    with a latent variance (Andrews, Mallows 1974) and so moves `loc` to a mean weighted by `1 / |x - loc|`, without
    ever lowering the likelihood.
    """

    loc: float = 0.0
    scale: float = 1.0
    min_scale: float = 1e-3
    name = "laplace"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loc) and math.isfinite(self.scale) and self.scale > self.min_scale > 0):
            raise ParameterError(f"Laplace needs a finite loc and scale > min_scale > 0, got {self!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Laplace":
        mean, std = location_and_scale(x)
        return cls(mean, std / math.sqrt(2))

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        loc = self.loc + self.scale * torch.randn(groups, units, generator=generator)
        return {"location": loc, "log_scale": torch.full_like(loc, math.log(self.scale))}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> LocationScale:
        return LocationScale(parameters["location"], parameters["log_scale"].exp())

    def log_density(self, unit: LocationScale, x: Tensor) -> Tensor:
        return -(x - unit.loc).abs() / unit.scale - (2 * unit.scale).log()

    def mode(self, unit: LocationScale) -> Tensor:
        return unit.loc

    def moments(self, unit: LocationScale) -> tuple[Tensor, Tensor]:
        return unit.loc, unit.loc.square() + 2 * unit.scale.square()

    def draw(self, unit: LocationScale, generator: torch.Generator | None) -> Tensor:
        loc, scale = unit
        uniform = torch.rand(loc.shape, dtype=torch.float64, device=loc.device, generator=generator) - 0.5
        return (loc - scale * uniform.sign() * torch.log1p(-2 * uniform.abs())).to(loc.dtype)

    def statistic(self, unit: LocationScale, x: Tensor) -> Tensor:
        """With `r = x - loc` and `d = max(|r|, near)`: `1 / d`, `r / d`, and `r^2 / d + d`, twice a bound of |r|."""
        gap = x - unit.loc
        size = torch.maximum(gap.abs(), _NEAR * unit.scale)
        return torch.stack([1 / size, gap / size, gap.square() / size + size], -1)

    def mean_statistic(self, unit: LocationScale) -> Tensor:
        return torch.stack([_MEAN_WEIGHT / unit.scale, torch.zeros_like(unit.loc), 2 * unit.scale], -1)

    def prior_statistic(self, unit: LocationScale) -> Tensor:
        away = self.statistic(unit, torch.full_like(unit.loc, self.loc))
        return away + away.new_tensor([0.0, 0.0, 2 * self.scale])

    def from_statistic(self, mean: Tensor, old: LocationScale) -> dict[str, Tensor]:
        weight, pull, bound = mean.unbind(-1)
        scale = (bound - pull.square() / weight) / 2
        return {"location": old.loc + pull / weight, "log_scale": scale.clamp_min(self.min_scale).log()}
