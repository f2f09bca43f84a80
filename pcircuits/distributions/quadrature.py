"""Integrals and sums of a density with one peak over an interval, and draws from it: Gauss-Legendre on panels that
double in width away from the peak.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pcircuits.distributions.draw import draw
from pcircuits.types import Float, Tensor

LogDensity = Callable[[Tensor], Tensor]  # (..., N) points to (..., N) log densities

_ORDER = 12  # points a panel
_FINEST, _COARSEST = -6, 7  # exponents of the panels' borders, in units of the scale
_SINGLES = 256  # integers on each side of the peak that are summed one by one
_FAR = 24  # doublings beyond them
_BISECTIONS = 60


class Nodes(NamedTuple):
    """`sum_n weight[..., n] f(x[..., n])` is the integral, or the sum over integers, of f. `low` and `high` are the
    ends of the panel that a node belongs to.
    """

    x: Float[Tensor, "... N"]
    weight: Float[Tensor, "... N"]
    low: Float[Tensor, "... N"]
    high: Float[Tensor, "... N"]

    def log_terms(self, log_density: LogDensity) -> Float[Tensor, "... N"]:
        """`log(weight f(x))`, with `-inf` where there is nothing."""
        inside = self.weight > 0
        terms = log_density(self.x) + torch.where(inside, self.weight, 1.0).log()
        return torch.where(inside, terms, -torch.inf)


@torch.no_grad()
def real_nodes(
    log_density: LogDensity,
    peak: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
    low: Float[Tensor, "..."],
    high: Float[Tensor, "..."],
) -> Nodes:
    """Nodes for the real numbers in `[low, high]` of a density that falls on both sides of `peak` over about `scale`.

    Where the interval leaves the peak out, panels are laid from its nearest end, as fine as the density's slope there
    asks for. They reach 128 scales to either side: for tails that fall exponentially nothing is left beyond.
    """
    centre = torch.maximum(torch.minimum(peak, high), low)
    step = 1e-4 * scale
    left, right = torch.maximum(centre - step, low), torch.minimum(centre + step, high)
    rise = log_density(right.unsqueeze(-1)).squeeze(-1) - log_density(left.unsqueeze(-1)).squeeze(-1)
    slope = ((right - left) / rise).abs()
    local = torch.where((slope < scale) & (centre != peak), slope, scale).clamp_min(1e-12 * scale)
    borders = torch.cat([torch.zeros(1), 2.0 ** torch.arange(_FINEST, _COARSEST + 1)]).to(centre)
    distances = local.unsqueeze(-1) * borders
    above = torch.minimum(centre.unsqueeze(-1) + distances, high.unsqueeze(-1))
    below = torch.maximum(centre.unsqueeze(-1) - distances, low.unsqueeze(-1))
    return on_panels(torch.cat([below[..., 1:], above[..., :-1]], -1), torch.cat([below[..., :-1], above[..., 1:]], -1))


@torch.no_grad()
def integer_nodes(peak: Float[Tensor, "..."], low: Float[Tensor, "..."], high: Float[Tensor, "..."]) -> Nodes:
    """Nodes for the integers in `[low, high]`: 256 on each side of the peak one by one, the others by integrals over
    panels of many, which is right to about 1e-6 of the sum.
    """
    low, high = low.ceil(), high.floor()
    centre = torch.maximum(torch.minimum(peak.round(), high), low)
    single = centre.unsqueeze(-1) + torch.arange(-_SINGLES, _SINGLES + 1).to(centre)
    inside = (single >= low.unsqueeze(-1)) & (single <= high.unsqueeze(-1))
    single = torch.where(inside, single, centre.unsqueeze(-1))
    ones = Nodes(single, inside.to(centre), single, single)
    distances = (_SINGLES + 0.5) * 2.0 ** torch.arange(_FAR + 1).to(centre)
    above = torch.minimum(centre.unsqueeze(-1) + distances, high.unsqueeze(-1) + 0.5)
    below = torch.maximum(centre.unsqueeze(-1) - distances, low.unsqueeze(-1) - 0.5)
    many = on_panels(torch.cat([below[..., 1:], above[..., :-1]], -1), torch.cat([below[..., :-1], above[..., 1:]], -1))
    return Nodes(*(torch.cat(pair, -1) for pair in zip(ones, many, strict=True)))


def draw_between(log_density: LogDensity, nodes: Nodes, generator: torch.Generator | None) -> Float[Tensor, " M"]:
    """One draw a row from the density over the nodes' interval (M, N): a panel by its mass, then the inverse of the
    distribution function within it.
    """
    terms = nodes.log_terms(log_density)
    index = draw((terms - terms.amax(-1, keepdim=True)).exp(), generator).unsqueeze(-1)
    low, high = nodes.low.gather(-1, index), nodes.high.gather(-1, index)
    peak = torch.where(nodes.low == low, terms, -torch.inf).amax(-1, keepdim=True)

    def mass(end: Tensor) -> Tensor:
        part = on_panels(low, end)
        return (part.log_terms(log_density) - peak).exp().sum(-1, keepdim=True)

    target = mass(high) * torch.rand(low.shape, dtype=low.dtype, device=low.device, generator=generator)
    left, right = low, high
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        short = mass(middle) < target
        left, right = torch.where(short, middle, left), torch.where(short, right, middle)
    return ((left + right) / 2).squeeze(-1)


def on_panels(low: Float[Tensor, "... P"], high: Float[Tensor, "... P"]) -> Nodes:
    """Gauss-Legendre points of every panel, side by side; a panel without width counts nothing."""
    points, weights = (torch.from_numpy(a).to(low) for a in np.polynomial.legendre.leggauss(_ORDER))
    width = (high - low).clamp_min(0.0)
    x = low.unsqueeze(-1) + width.unsqueeze(-1) * (points + 1) / 2
    ends = (end.unsqueeze(-1).expand_as(x).flatten(-2) for end in (low, high))
    return Nodes(x.flatten(-2), (width.unsqueeze(-1) * weights / 2).flatten(-2), *ends)
