"""Geometric inputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pcircuits.distributions.exponential import Exponential, Rate
from pcircuits.types import Tensor


@dataclass(frozen=True)
class Geometric(Exponential):
    """Failures before a success, 0, 1, ...: `p(x) = (1 - p)^x p`. Parameter: `log_rate` (G, K), the log odds of p.

    `mean` says where the data lies: units start around it, and smoothing pulls towards it.
    """

    mean: float = 1.0
    name = "geometric"
    is_integer = True

    @property
    def logarithmic(self) -> bool:
        return False

    def log_density(self, unit: Rate, x: Tensor) -> Tensor:
        return x * F.logsigmoid(-unit.log_rate) + F.logsigmoid(unit.log_rate)

    def moments(self, unit: Rate) -> tuple[Tensor, Tensor]:
        mean = (-unit.log_rate).exp()
        return mean, mean + 2 * mean.square()

    def log_mass(self, unit: Rate, low: Tensor, high: Tensor) -> Tensor:
        """`(1 - p)^low - (1 - p)^(high + 1)`."""
        low, high = self._inside(low, high)
        log_failure, count = F.logsigmoid(-unit.log_rate), (high - low + 1).clamp_min(0.0)
        finite = torch.where(count.isinf(), 0.0, count) * log_failure
        rest = torch.where(count.isinf(), 0.0, torch.log(-torch.expm1(torch.where(count > 0, finite, -1.0))))
        return torch.where(count > 0, low * log_failure + rest, -torch.inf)

    def draw(self, unit: Rate, generator: torch.Generator | None) -> Tensor:
        rate = unit.log_rate
        uniform = torch.rand(rate.shape, dtype=torch.float64, device=rate.device, generator=generator)
        return (torch.log1p(-uniform) / F.logsigmoid(-rate.double())).floor().to(rate.dtype)
