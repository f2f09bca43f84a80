"""Gaussian inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.family import Rows, location_and_scale
from pcircuits.errors import ParameterError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import choice, gaussian_counts, gaussian_values
from pcircuits.kernels.gaussian.reference import moments_of
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory


class Normal(NamedTuple):
    mean: Float[Tensor, "G K"]
    std: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Gaussian(ExponentialFamily):
    """Real values. Parameters: `mean` (G, K) and `raw_std` (G, K), `std = min_std + softplus(raw_std)`, or with a
    ceiling `std = min_std + (max_std - min_std) sigmoid(raw_std)`.

    `loc` and `scale` say where the data lies: units start there (halfway between the bounds of `std` where `scale` is
    above them), and smoothing pulls towards them. Give standardised data or set them.
    """

    loc: float = 0.0
    scale: float = 1.0
    min_std: float = 1e-3
    max_std: float | None = None
    name = "gaussian"
    is_normal = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loc) and math.isfinite(self.scale) and self.scale > self.min_std > 0):
            raise ParameterError(f"Gaussian needs a finite loc and scale > min_std > 0, got {self!r}")
        if self.max_std is not None and not (math.isfinite(self.max_std) and self.max_std > self.min_std):
            raise ParameterError(f"Gaussian needs a finite max_std > min_std, or None, got {self!r}")

    @classmethod
    def from_data(cls, x: Float[Tensor, " N"]) -> "Gaussian":
        return cls(*location_and_scale(x))

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        mean = self.loc + self.scale * torch.randn(groups, units, generator=generator)
        start = self.scale
        if self.max_std is not None and start >= self.max_std:
            start = (self.min_std + self.max_std) / 2
        return self.from_moments(mean, torch.full_like(mean, start))

    def from_moments(self, mean: Float[Tensor, "G K"], std: Float[Tensor, "G K"]) -> dict[str, Tensor]:
        """Unconstrained parameters with these moments; `std` is at least `min_std` + 1e-6, and a millionth of their
        distance away from two bounds.
        """
        excess = std - self.min_std
        if self.max_std is not None:
            return {"mean": mean, "raw_std": (excess / (self.max_std - self.min_std)).logit(eps=1e-6)}
        excess = excess.clamp_min(1e-6)
        return {"mean": mean, "raw_std": excess + torch.log(-torch.expm1(-excess))}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Normal:
        mean, raw = parameters["mean"], parameters["raw_std"]
        if self.max_std is None:
            return Normal(mean, self.min_std + torch.nn.functional.softplus(raw))
        return Normal(mean, self.min_std + (self.max_std - self.min_std) * raw.sigmoid())

    def log_density(self, unit: Normal, x: Tensor) -> Tensor:
        return -unit.std.log() - 0.5 * math.log(2 * math.pi) - 0.5 * ((x - unit.mean) / unit.std).square()

    def scaled_values(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, memory: Memory
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        if not self._has_kernels(prepared.mean, evidence):
            return super().scaled_values(prepared, rows, evidence, memory)
        return gaussian_values(*prepared, rows, evidence.values, evidence.observed)

    def statistics(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Float[Tensor, "G K 3"]]:
        if not self._has_kernels(flows, evidence):
            return super().statistics(prepared, rows, evidence, flows, exact, memory)
        counts = gaussian_counts(*prepared, rows, evidence.values, evidence.observed, flows)
        return {"counts": moments_of(counts.double(), *(x.double() for x in prepared))}

    def _has_kernels(self, like: Tensor, evidence: InputEvidence) -> bool:
        return choice.on_triton((like,)) and evidence.interval is None

    def mode(self, unit: Normal) -> Tensor:
        return unit.mean

    def moments(self, unit: Normal) -> tuple[Tensor, Tensor]:
        return unit.mean, unit.std.square() + unit.mean.square()

    def draw(self, unit: Normal, generator: torch.Generator | None) -> Tensor:
        mean, std = unit
        return mean + std * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)

    def statistic(self, unit: Normal, x: Tensor) -> Tensor:
        return torch.stack([x, x.square()], -1)

    def mean_statistic(self, unit: Normal) -> Tensor:
        return torch.stack([unit.mean, unit.std.square() + unit.mean.square()], -1)

    def prior_statistic(self, unit: Normal) -> Tensor:
        return unit.mean.new_tensor([self.loc, self.scale**2 + self.loc**2])

    def from_statistic(self, mean: Tensor, old: Normal) -> dict[str, Tensor]:
        """Bounds clamp: at the best mean the likelihood rises in `std` up to that of the data and falls from there."""
        first, second = mean.unbind(-1)
        highest = None if self.max_std is None else self.max_std**2
        return self.from_moments(first, (second - first.square()).clamp((2 * self.min_std) ** 2, highest).sqrt())
