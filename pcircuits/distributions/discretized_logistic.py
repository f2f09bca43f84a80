"""Discretised logistic inputs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pcircuits.distributions.discrete import Discrete, Table
from pcircuits.distributions.family import Smoothing
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor

_NEWTON_STEPS, _HALVINGS = 30, 12
_LEAST_SCALE = 0.05  # a category then has all but 1e-4 of the probability


class _Line(NamedTuple):
    """The logistic distribution function at category borders, `sigmoid(slope border - offset)`."""

    offset: Float[Tensor, "G K"]
    slope: Float[Tensor, "G K"]


@dataclass(frozen=True)
class DiscretizedLogistic(Discrete):
    """Ordered values 0..V-1, each with a logistic distribution's probability of the interval around it, the outer two
    of all that lies beyond (Salimans et al. 2017, PixelCNN++, equation 2). Parameters: `mean` and `log_scale` (G, K),
    in categories.

    The log likelihood is concave in `(mean, 1) / scale`; EM maximises it by Newton steps that are halved until they
    improve it.
    """

    num_categories: int
    name = "discretized_logistic"

    def __post_init__(self) -> None:
        if not isinstance(self.num_categories, int) or self.num_categories < 2:
            raise ParameterError(f"`num_categories` must be an integer of at least 2, got {self.num_categories!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "DiscretizedLogistic":
        return cls(max(int(x.max()) + 1, 2))

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        mean = (self.num_categories - 1) * torch.rand(groups, units, generator=generator)
        return {"mean": mean, "log_scale": torch.full_like(mean, math.log(max(self.num_categories / 10, 0.5)))}

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        slope = (-parameters["log_scale"]).exp()
        return self._log_probabilities(_Line(parameters["mean"] * slope, slope))

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        """The parameters of greatest likelihood for counts in these proportions."""
        values = torch.arange(self.num_categories).to(table)
        mean = table @ values / table.sum(-1)
        variance = table @ values.square() / table.sum(-1) - mean.square()
        scale = (variance.clamp_min(0.25) * 3).sqrt() / math.pi
        return self._fit(table, {"mean": mean, "log_scale": scale.log()})

    def maximise(
        self, prepared: Table, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        old = prepared.log.exp()
        target = smooth.probabilities(statistics["counts"].to(old.dtype), old, support)
        return self._fit(target, prepared.parameters)

    def _fit(self, table: Float[Tensor, "G K V"], start: dict[str, Tensor]) -> dict[str, Tensor]:
        target, slope = table.double(), (-start["log_scale"].double()).exp()
        line = _Line(start["mean"].double() * slope, slope)
        best = self._likelihood(target, line)
        for _ in range(_NEWTON_STEPS):
            step, share = self._newton_step(target, line), 1.0
            for _ in range(_HALVINGS):
                tried = self._admissible(_Line(line.offset + share * step.offset, line.slope + share * step.slope))
                found = self._likelihood(target, tried)
                better = found > best
                line = _Line(*(torch.where(better, new, old) for new, old in zip(tried, line, strict=True)))
                step = _Line(*(torch.where(better, 0.0, s) for s in step))
                best, share = torch.where(better, found, best), share / 2
        fitted = {"mean": line.offset / line.slope, "log_scale": -line.slope.log()}
        return {name: value.to(table.dtype) for name, value in fitted.items()}

    def _newton_step(self, target: Tensor, line: _Line) -> _Line:
        with torch.enable_grad():
            offset, slope = (x.detach().requires_grad_() for x in line)
            total = self._likelihood(target, _Line(offset, slope)).sum()
            g0, g1 = torch.autograd.grad(total, (offset, slope), create_graph=True)
            (h00, h01), (_, h11) = (torch.autograd.grad(g.sum(), (offset, slope), retain_graph=True) for g in (g0, g1))
        g0, g1 = g0.detach(), g1.detach()
        determinant = h00 * h11 - h01.square()
        safe = (determinant > 1e-12) & (h00 < 0)
        divisor = torch.where(safe, determinant, 1.0)
        newton = _Line((h01 * g1 - h11 * g0) / divisor, (h01 * g0 - h00 * g1) / divisor)
        return _Line(torch.where(safe, newton.offset, g0), torch.where(safe, newton.slope, g1))

    def _likelihood(self, target: Tensor, line: _Line) -> Float[Tensor, "G K"]:
        return (target * self._log_probabilities(line)).sum(-1)

    def _admissible(self, line: _Line) -> _Line:
        slope = line.slope.clamp(1e-6, 1 / _LEAST_SCALE)
        reach = float(self.num_categories)
        return _Line(torch.maximum(torch.minimum(line.offset, 2 * reach * slope), -reach * slope), slope)

    def _log_probabilities(self, line: _Line) -> Float[Tensor, "G K V"]:
        """Log differences of neighbouring borders' values: `log sigmoid(a) sigmoid(-b) (1 - exp(b - a))` for b < a."""
        borders = torch.arange(self.num_categories - 1).to(line.slope) + 0.5
        at = line.slope.unsqueeze(-1) * borders - line.offset.unsqueeze(-1)
        below, above = F.logsigmoid(at), F.logsigmoid(-at)
        between = torch.log(-torch.expm1(-line.slope)).unsqueeze(-1)
        return torch.cat([below[..., :1], below[..., 1:] + above[..., :-1] + between, above[..., -1:]], -1)
