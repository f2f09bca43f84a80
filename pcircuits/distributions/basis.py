"""Families whose units are mixtures of the same fixed pieces on a grid."""

import itertools
import math
from abc import abstractmethod
from typing import NamedTuple

import torch

from pcircuits.distributions.exponential_family import ExponentialFamily
from pcircuits.distributions.family import LEAST_PROBABILITY
from pcircuits.distributions.quadrature import Nodes, on_panels
from pcircuits.errors import ParameterError
from pcircuits.kernels import logsumexp
from pcircuits.types import Float, Tensor


class Weights(NamedTuple):
    mode: Float[Tensor, "G K"]
    log: Float[Tensor, "G K J"]


class Basis(ExponentialFamily):
    """`p(x) = sum_j weight_j piece_j(x)` with J fixed densities between the points of a grid. Parameter: `logits`
    (G, K, J), normalised over J. EM counts how often each piece is responsible for a value.

    A subclass gives the `grid`, which its pieces are polynomials between the points of.
    """

    grid: tuple[float, ...]

    @property
    @abstractmethod
    def num_pieces(self) -> int:
        """J."""

    @abstractmethod
    def log_pieces(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... J"]:
        """Log density of every piece; `-inf` where it is zero."""

    @abstractmethod
    def piece_moments(self, like: Tensor) -> Float[Tensor, "J 2"]:
        """Mean and mean square of every piece."""

    @abstractmethod
    def draw_piece(self, piece: Tensor, uniform: Float[Tensor, "M 2"]) -> Float[Tensor, " M"]:
        """One draw from each of some pieces, made of two uniform numbers."""

    @property
    def domain(self) -> tuple[float, float]:
        return self.grid[0], self.grid[-1]

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        weights = 0.1 + 0.9 * torch.rand(groups, units, self.num_pieces, generator=generator)
        return {"logits": (weights / weights.sum(-1, keepdim=True)).log()}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Weights:
        log = parameters["logits"].log_softmax(-1)
        candidates = self._candidates(log, *(log.new_tensor(end) for end in self.domain))
        best = (self.log_pieces(candidates).detach() + log.detach().unsqueeze(-2)).logsumexp(-1).argmax(-1)
        return Weights(candidates[best], log)

    def log_density(self, unit: Weights, x: Tensor) -> Tensor:
        return logsumexp(unit.log + self.log_pieces(x))

    def mode(self, unit: Weights) -> Tensor:
        return unit.mode

    def mode_between(self, unit: Weights, low: Tensor, high: Tensor) -> Tensor:
        low, high = torch.broadcast_tensors(*self._inside(low, high))
        candidates = self._candidates(unit.log, low, high)
        spread = Weights(unit.mode.unsqueeze(-1), unit.log.unsqueeze(-2))
        best = self.log_density(spread, candidates).argmax(-1, keepdim=True)
        return candidates.expand(*best.shape[:-1], -1).gather(-1, best).squeeze(-1)

    def moments(self, unit: Weights) -> tuple[Tensor, Tensor]:
        found = unit.log.exp() @ self.piece_moments(unit.log)
        return found[..., 0], found[..., 1]

    def draw(self, unit: Weights, generator: torch.Generator | None) -> Tensor:
        uniform = torch.rand(len(unit.log), 3, dtype=torch.float64, device=unit.log.device, generator=generator)
        below = unit.log.double().exp().cumsum(-1)
        piece = (below < uniform[:, :1] * below[:, -1:]).sum(-1)
        return self.draw_piece(piece, uniform[:, 1:]).to(unit.log.dtype)

    def statistic(self, unit: Weights, x: Tensor) -> Tensor:
        log_share = unit.log + self.log_pieces(x)
        return (log_share - logsumexp(log_share).clamp_min(-1e30).unsqueeze(-1)).exp()

    def mean_statistic(self, unit: Weights) -> Tensor:
        return unit.log.exp()

    def prior_statistic(self, unit: Weights) -> Tensor:
        return torch.full_like(unit.log, 1 / self.num_pieces)

    def from_statistic(self, mean: Tensor, old: Weights) -> dict[str, Tensor]:
        return {"logits": mean.clamp_min(LEAST_PROBABILITY).log()}

    def points(self, like: Tensor) -> Float[Tensor, " E"]:
        return torch.tensor(self.grid, dtype=like.dtype, device=like.device)

    def _candidates(self, like: Tensor, low: Tensor, high: Tensor) -> Float[Tensor, "... C"]:
        """Where a largest density may lie in `[low, high]`: points of the grid, and the middle of each cell."""
        points = torch.minimum(torch.maximum(self.points(like), low.unsqueeze(-1)), high.unsqueeze(-1))
        return torch.cat([(points[..., 1:] + points[..., :-1]) / 2, points], -1)

    def _nodes(self, unit: Weights, low: Tensor, high: Tensor, temperature: float = 1.0) -> Nodes:
        points = self.points(unit.log)
        low, high = (end.unsqueeze(-1) for end in self._inside(low, high))
        return on_panels(torch.maximum(points[:-1], low), torch.minimum(points[1:], high))


def require_grid(name: str, grid: object, least: int) -> tuple[float, ...]:
    """A grid as a tuple of floats: finite, ascending, of at least so many points."""
    try:
        points = tuple(float(p) for p in grid)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        points = ()
    ascending = all(a < b for a, b in itertools.pairwise(points))
    if len(points) < least or not ascending or not all(map(math.isfinite, points)):
        raise ParameterError(f"`{name}` must be at least {least} finite, ascending numbers, got {grid!r:.80}")
    return points


def quantile_grid(x: Float[Tensor, " N"], size: int) -> tuple[float, ...]:
    """At most so many distinct points at equal shares of a column of data, from its least to its largest value."""
    column = x.double()
    points = torch.quantile(column, torch.linspace(0, 1, size, dtype=torch.float64)).unique().tolist()
    return tuple(points) if len(points) > 1 else (points[0] - 0.5, points[0] + 0.5)
