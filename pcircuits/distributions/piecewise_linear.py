"""Piecewise linear inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcircuits.distributions.basis import Basis, quantile_grid, require_grid
from pcircuits.types import Tensor


@dataclass(frozen=True)
class PiecewiseLinear(Basis):
    """Values from the first to the last of J `knots`, with a density that is linear between them: a mixture of J hats,
    each one at its knot and zero at the next ones. Parameter: `logits` (G, K, J), the hats' weights.

    Entropies are right to about 1e-5 where the density falls to zero at a knot.
    """

    knots: Sequence[float]
    name = "piecewise_linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "knots", require_grid("knots", self.knots, 2))

    @classmethod
    def from_data(cls, x: Tensor, knots: int = 16) -> "PiecewiseLinear":
        """Knots with equally many of the values between them."""
        return cls(quantile_grid(x, knots))

    @property
    def grid(self) -> tuple[float, ...]:  # type: ignore[override]
        return tuple(self.knots)

    @property
    def num_pieces(self) -> int:
        return len(self.knots)

    def log_pieces(self, x: Tensor) -> Tensor:
        knots, (left, right), x = self.points(x), self._widths(x), x.unsqueeze(-1)
        height = torch.where(x < knots, 1 - (knots - x) / left, 1 - (x - knots) / right)
        inside = height > 0
        log = torch.where(inside, height, 1.0).log() - ((self._real(left) + self._real(right)) / 2).log()
        return torch.where(inside, log, -torch.inf)

    def piece_moments(self, like: Tensor) -> Tensor:
        """Of a hat with sides a, b around its knot k: `k + (b - a) / 3`, and the square of k with what it varies."""
        knots, (left, right) = self.points(like), map(self._real, self._widths(like))
        shift = (right - left) / 3
        spread = (left.pow(3) + right.pow(3)) / (6 * (left + right))
        return torch.stack([knots + shift, knots.square() + 2 * knots * shift + spread], -1)

    def draw_piece(self, piece: Tensor, uniform: Tensor) -> Tensor:
        knots, (left, right) = self.points(uniform), map(self._real, self._widths(uniform))
        left, right = left[piece], right[piece]
        side = torch.where(uniform[:, 0] * (left + right) < left, -left, right)
        return knots[piece] + side * (1 - uniform[:, 1].sqrt())

    def _widths(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """How far each hat reaches to its left and right; infinitesimal beyond the ends."""
        gaps = self.points(like).diff()
        none = gaps.new_full((1,), torch.finfo(gaps.dtype).tiny)
        return torch.cat([none, gaps]), torch.cat([gaps, none])

    @staticmethod
    def _real(width: Tensor) -> Tensor:
        return torch.where(width > torch.finfo(width.dtype).tiny, width, 0.0)
