"""Log-normal inputs."""

import math
from dataclasses import dataclass

import torch

from pcircuits.distributions.gaussian import Gaussian, Normal
from pcircuits.distributions.univariate import POSITIVE
from pcircuits.types import Tensor


@dataclass(frozen=True)
class LogNormal(Gaussian):
    """Positive values whose logarithm is Gaussian. Parameters: `mean` and `raw_std` (G, K) of the logarithm,
    `std = min_std + softplus(raw_std)`.

    `loc` and `scale` say where the logarithm of the data lies.
    """

    loc: float = 0.0
    scale: float = 1.0
    min_std: float = 1e-3
    name = "log_normal"
    is_normal = False

    @classmethod
    def from_data(cls, x: Tensor) -> "LogNormal":
        base = Gaussian.from_data(x.double().clamp_min(1e-12).log())
        return cls(base.loc, base.scale)

    @property
    def domain(self) -> tuple[float, float]:
        return POSITIVE, math.inf

    @property
    def logarithmic(self) -> bool:
        return True

    def log_density(self, unit: Normal, x: Tensor) -> Tensor:
        log = x.log()
        return super().log_density(unit, log) - log

    def mode(self, unit: Normal) -> Tensor:
        return (unit.mean - unit.std.square()).exp()

    def moments(self, unit: Normal) -> tuple[Tensor, Tensor]:
        return (unit.mean + unit.std.square() / 2).exp(), (2 * unit.mean + 2 * unit.std.square()).exp()

    def peak_and_scale(self, unit: Normal) -> tuple[Tensor, Tensor]:
        return unit.mean, unit.std

    def draw(self, unit: Normal, generator: torch.Generator | None) -> Tensor:
        return super().draw(unit, generator).exp().clamp_min(POSITIVE)

    def statistic(self, unit: Normal, x: Tensor) -> Tensor:
        return super().statistic(unit, x.log())
