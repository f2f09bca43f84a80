"""Powers of a variable: with weights of any sign, polynomials."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pcircuits.distributions.bounded import Bounded
from pcircuits.distributions.family import Rows
from pcircuits.distributions.quadrature import Nodes, on_panels
from pcircuits.evidence import InputEvidence
from pcircuits.types import Float, Tensor

_BORDERS = (0.0, *(2.0**-n for n in range(40, 0, -1)), *(1 - 2.0**-n for n in range(2, 9)), 1.0)  # of panels


class Powers(NamedTuple):
    """`f(x) = exp(log_constant) ((x - low) / (high - low))^degree`."""

    degree: Float[Tensor, "G K"]
    log_constant: Float[Tensor, "G K"]


@dataclass(frozen=True)
class Monomial(Bounded):
    """Values from `low` to `high`. Unit k, of k = 0..K-1, has the density proportional to
    `((x - low) / (high - low))^k`: unit 0 is constant. Each unit's `degree` (G, K) is no learner's to change.

    A `SignedCircuit` of such inputs is a polynomial in every variable, of degree K - 1, and its square a density on a
    box. Powers of high degree differ little from each other, so that squares of more than about ten lose digits.
    """

    name = "monomial"
    fixed = frozenset({"degree"})

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"degree": torch.arange(float(units)).repeat(groups, 1)}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Powers:
        degree = parameters["degree"]
        return Powers(degree, (degree.double() + 1).log() - self._log_width)

    def log_integral(self, units: Powers) -> Float[Tensor, "..."]:
        """0 of densities; others are multiples of them."""
        return units.log_constant - (units.degree.double() + 1).log() + self._log_width

    def log_values(self, prepared: Powers, rows: Rows, evidence: InputEvidence, maximise: bool) -> Tensor:
        return super().log_values(prepared, rows, evidence, maximise) + self._log_integrals(prepared, rows)

    def expected_log(self, prepared: Powers, rows: Rows, evidence: InputEvidence) -> Tensor:
        return super().expected_log(prepared, rows, evidence) + self._log_integrals(prepared, rows)

    def log_density(self, unit: Powers, x: Tensor) -> Tensor:
        share = self._share(x)
        log = torch.where(share > 0, share, 1.0).log()
        return (
            (unit.degree + 1).log()
            - self._log_width
            + torch.where((share > 0) | (unit.degree == 0), unit.degree * log, -torch.inf)
        )

    def mode(self, unit: Powers) -> Tensor:
        return torch.full_like(unit.degree, self.high)

    def moments(self, unit: Powers) -> tuple[Tensor, Tensor]:
        first, second = ((unit.degree + 1) / (unit.degree + n) for n in (2, 3))
        width = self.high - self.low
        return self.low + width * first, self.low**2 + 2 * self.low * width * first + width**2 * second

    def draw(self, unit: Powers, generator: torch.Generator | None) -> Tensor:
        low, high = (torch.full_like(unit.degree, end) for end in self.domain)
        return self.draw_between(unit, low, high, 1.0, generator)

    def draw_between(
        self, unit: Powers, low: Tensor, high: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        """By the inverse of the distribution function, `(t^m - a^m) / (b^m - a^m)` with `m = degree + 1`."""
        power = unit.degree / temperature + 1
        largest = self._share(high).clamp_min(torch.finfo(power.dtype).tiny)
        least = (self._share(low) / largest).pow(power)
        uniform = torch.rand(power.shape, dtype=power.dtype, device=power.device, generator=generator)
        drawn = self.low + (self.high - self.low) * largest * (least + uniform * (1 - least)).pow(1 / power)
        return torch.maximum(torch.minimum(drawn, high), low)

    def log_mass(self, unit: Powers, low: Tensor, high: Tensor) -> Tensor:
        power, least, largest = unit.degree + 1, self._share(low), self._share(high)
        inside = least < largest
        least, largest = torch.where(inside, least, 0.0), torch.where(inside, largest, 1.0)
        below = power * (least / largest).log()
        return torch.where(inside, power * largest.log() + torch.log(-torch.expm1(below)), -torch.inf)

    @property
    def _log_width(self) -> float:
        return math.log(self.high - self.low)

    def _share(self, x: Tensor) -> Tensor:
        return ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def _log_integrals(self, prepared: Powers, rows: Rows) -> Float[Tensor, "F 1 K"]:
        return self.log_integral(prepared)[rows].unsqueeze(1)

    def _nodes(self, unit: Powers, low: Tensor, high: Tensor, temperature: float = 1.0) -> Nodes:
        borders = self.low + (self.high - self.low) * torch.tensor(_BORDERS).to(low)
        low, high = (end.unsqueeze(-1) for end in self._inside(low, high))
        return on_panels(torch.maximum(borders[:-1], low), torch.minimum(borders[1:], high))
