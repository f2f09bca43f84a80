"""Log-normal inputs."""

import math
from dataclasses import dataclass

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.gaussian import Gaussian, Normal
from pcircuits.distributions.univariate import POSITIVE
from pcircuits.errors import ParameterError
from pcircuits.types import Tensor


@dataclass(frozen=True)
class LogNormal(ExponentialFamily):
    """Positive values whose logarithm is Gaussian. Parameters: `mean` and `raw_std` (G, K) of the logarithm,
    `std = min_std + softplus(raw_std)`.

    `loc` and `scale` say where the logarithm of the data lies.
    """

    loc: float = 0.0
    scale: float = 1.0
    min_std: float = 1e-3
    name = "log_normal"

    def __post_init__(self) -> None:
        try:
            self._of_log  # noqa: B018 - refuses what no Gaussian has
        except ParameterError as error:
            raise ParameterError(f"{self!r} has no such logarithm: {error}") from None

    @classmethod
    def from_data(cls, x: Tensor) -> "LogNormal":
        base = Gaussian.from_data(x.double().clamp_min(1e-12).log())
        return cls(base.loc, base.scale)

    @property
    def _of_log(self) -> Gaussian:
        return Gaussian(self.loc, self.scale, self.min_std)

    @property
    def domain(self) -> tuple[float, float]:
        return POSITIVE, math.inf

    @property
    def logarithmic(self) -> bool:
        return True

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return self._of_log.initialise(groups, units, generator)

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Normal:
        return self._of_log.prepare(parameters, support)

    def log_density(self, unit: Normal, x: Tensor) -> Tensor:
        log = x.log()
        return self._of_log.log_density(unit, log) - log

    def mode(self, unit: Normal) -> Tensor:
        return (unit.mean - unit.std.square()).exp()

    def moments(self, unit: Normal) -> tuple[Tensor, Tensor]:
        return (unit.mean + unit.std.square() / 2).exp(), (2 * unit.mean + 2 * unit.std.square()).exp()

    def peak_and_scale(self, unit: Normal) -> tuple[Tensor, Tensor]:
        return unit.mean, unit.std

    def draw(self, unit: Normal, generator: torch.Generator | None) -> Tensor:
        return self._of_log.draw(unit, generator).exp().clamp_min(POSITIVE)

    def statistic(self, unit: Normal, x: Tensor) -> Tensor:
        return self._of_log.statistic(unit, x.log())

    def mean_statistic(self, unit: Normal) -> Tensor:
        return self._of_log.mean_statistic(unit)

    def prior_statistic(self, unit: Normal) -> Tensor:
        return self._of_log.prior_statistic(unit)

    def from_statistic(self, mean: Tensor, old: Normal) -> dict[str, Tensor]:
        return self._of_log.from_statistic(mean, old)
