"""Histogram inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcircuits.distributions.basis import Basis, quantile_grid, require_grid
from pcircuits.types import Tensor


@dataclass(frozen=True)
class Histogram(Basis):
    """Values from the first to the last of the bins' `edges`, uniform within each of the J bins. Parameter: `logits`
    (G, K, J). The maximum likelihood weights are the shares of the data in each bin.
    """

    edges: Sequence[float]
    name = "histogram"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", require_grid("edges", self.edges, 2))

    @classmethod
    def from_data(cls, x: Tensor, bins: int = 16) -> "Histogram":
        """Bins with equally many of the values."""
        return cls(quantile_grid(x, bins + 1))

    @property
    def grid(self) -> tuple[float, ...]:  # type: ignore[override]
        return tuple(self.edges)

    @property
    def num_pieces(self) -> int:
        return len(self.edges) - 1

    def log_pieces(self, x: Tensor) -> Tensor:
        edges = self.points(x)
        place = torch.bucketize(x.detach().contiguous(), edges[1:-1].contiguous(), right=True).unsqueeze(-1)
        inside = place == torch.arange(self.num_pieces, device=x.device)
        return torch.where(inside, -edges.diff().log(), -torch.inf)

    def piece_moments(self, like: Tensor) -> Tensor:
        edges = self.points(like)
        low, high = edges[:-1], edges[1:]
        return torch.stack([(low + high) / 2, (low.square() + low * high + high.square()) / 3], -1)

    def draw_piece(self, piece: Tensor, uniform: Tensor) -> Tensor:
        edges = self.points(uniform)
        return edges[piece] + edges.diff()[piece] * uniform[:, 0]
