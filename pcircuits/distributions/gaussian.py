"""Gaussian inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.family import LEAST_COUNT, InputFamily, Picks, Rows, Smoothing
from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.evidence import InputEvidence, rows_of
from pcircuits.types import Bool, Float, Tensor
from pcircuits.workspace import Memory


class Normal(NamedTuple):
    mean: Float[Tensor, "G K"]
    std: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Gaussian(InputFamily):
    """Real values. Parameters: `mean` (G, K) and `raw_std` (G, K), `std = min_std + softplus(raw_std)`.

    `loc` and `scale` say where the data lies: units start there, and smoothing pulls towards them. Give standardised
    data or set them.
    """

    loc: float = 0.0
    scale: float = 1.0
    min_std: float = 1e-3
    name = "gaussian"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loc) and math.isfinite(self.scale) and self.scale > self.min_std > 0):
            raise ParameterError(f"Gaussian needs a finite loc and scale > min_std > 0, got {self!r}")

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        mean = self.loc + self.scale * torch.randn(groups, units, generator=generator)
        return self.from_moments(mean, torch.full_like(mean, self.scale))

    def from_moments(self, mean: Float[Tensor, "G K"], std: Float[Tensor, "G K"]) -> dict[str, Tensor]:
        """Unconstrained parameters with these moments; `std` is at least `min_std` + 1e-6."""
        excess = (std - self.min_std).clamp_min(1e-6)
        return {"mean": mean, "raw_std": excess + torch.log(-torch.expm1(-excess))}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Normal:
        return Normal(parameters["mean"], self.min_std + torch.nn.functional.softplus(parameters["raw_std"]))

    def dtype_of(self, prepared: Normal) -> torch.dtype:
        return prepared.mean.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        if evidence.values.is_floating_point() and (bad := evidence.values.isinf() & evidence.observed).any():
            raise EvidenceError(
                f"variable {variables[int(bad.any(1).nonzero()[0])]} is infinite in batch rows {rows_of(bad.any(0))}"
            )
        if evidence.log_weights is not None and (bad := evidence.log_weights.ne(0).any(-1) & ~evidence.observed).any():
            variable = variables[int(bad.any(1).nonzero()[0])]
            raise EvidenceError(
                f"variable {variable} is {self!r}: `log_weights` must be zero there, weights are for discrete variables"
            )

    def log_values(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        mean, std = (p.double()[rows].unsqueeze(1) for p in prepared)
        values = torch.where(evidence.observed, evidence.values, 0.0).double().unsqueeze(-1)
        constant = -std.log() - 0.5 * math.log(2 * math.pi)
        free = constant if maximise else torch.zeros_like(constant)
        return torch.where(evidence.observed.unsqueeze(-1), constant - 0.5 * ((values - mean) / std).square(), free)

    def expected_log(self, prepared: Normal, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        entropy = (prepared.std.double()[rows].log() + 0.5 * math.log(2 * math.pi * math.e)).unsqueeze(1)
        density = self.log_values(prepared, rows, evidence, False)
        return torch.where(evidence.observed.unsqueeze(-1), density, -entropy)

    def posterior(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "F B 2"]:
        first, second = self._moments(prepared, rows, evidence, flows.dtype)
        return torch.stack([(flows * first).sum(-1), (flows * second).sum(-1)], -1)

    def statistics(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        first, second = self._moments(prepared, rows, evidence, flows.dtype)
        per_row = torch.stack([flows.sum(1), (flows * first).sum(1), (flows * second).sum(1)], -1)
        groups, units = prepared.mean.shape
        return {"counts": flows.new_zeros(groups, units, 3).index_add(0, rows, per_row)}

    def maximise(
        self, prepared: Normal, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        pseudocount, relative, step = smooth
        total, first, second = statistics["counts"].double().unbind(-1)
        old_mean, old_std = (p.double() for p in prepared)
        extra = pseudocount * (total if relative else 1.0)
        weight = (total + extra).clamp_min(LEAST_COUNT)
        new_mean = (first + extra * self.loc) / weight
        new_second = (second + extra * (self.scale**2 + self.loc**2)) / weight
        mean = (1 - step) * old_mean + step * new_mean
        square = (1 - step) * (old_std.square() + old_mean.square()) + step * new_second
        std = (square - mean.square()).clamp_min((2 * self.min_std) ** 2).sqrt()
        reached = total > LEAST_COUNT
        updated = self.from_moments(torch.where(reached, mean, old_mean), torch.where(reached, std, old_std))
        return {key: value.to(prepared.mean.dtype) for key, value in updated.items()}

    def sample(
        self,
        prepared: Normal,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, " M"]:
        row, batch, unit = picks
        mean, std = (p[rows[row], unit] for p in prepared)
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        drawn = mean + math.sqrt(temperature) * std * noise
        return torch.where(evidence.observed[row, batch], evidence.values[row, batch].to(drawn.dtype), drawn)

    def overlap(self, prepared: Normal, rows: Rows) -> Bool[Tensor, "F K K"]:
        units = prepared.mean.shape[1]
        return torch.ones(len(rows), units, units, dtype=torch.bool, device=prepared.mean.device)

    def _moments(
        self, prepared: Normal, rows: Rows, evidence: InputEvidence, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        mean, std = (p[rows].unsqueeze(1).to(dtype) for p in prepared)
        hard = evidence.observed.unsqueeze(-1)
        values = torch.where(evidence.observed, evidence.values, 0.0).to(dtype).unsqueeze(-1)
        return torch.where(hard, values, mean), torch.where(hard, values.square(), std.square() + mean.square())
